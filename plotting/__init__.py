"""Figures. Functions take arrays and return a figure; they load nothing and train nothing."""
