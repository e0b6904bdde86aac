"""Ways to run a policy that gives whole chunks of actions: published baselines behind one interface."""
