"""Figures. Functions take arrays and return a figure; they load and evaluate nothing."""
