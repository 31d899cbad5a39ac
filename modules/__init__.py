"""Parts of the model. They import torch and torchmetrics alone."""
