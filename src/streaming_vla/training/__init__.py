"""Training: demonstrations from scripted experts and the compact policy."""
