"""The shipped policy: a small vision-language-action model over the history of observations."""
