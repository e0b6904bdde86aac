"""The policy contract, and the policies that fulfil it."""
