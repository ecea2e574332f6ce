"""What runs on this machine: the stack, its supervisor, monitoring beside it, replicas behind a balancer."""
