"""What runs as the runner's own uid: copied into each run's folder, stdlib and ansible_runner only."""
