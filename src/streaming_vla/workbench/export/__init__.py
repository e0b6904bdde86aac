"""From many bags to a data set: in parallel processes, with a progress bar, resumed where it was stopped."""
