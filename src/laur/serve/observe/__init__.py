"""What can be seen of a server and of its workers: logs, counts and times, traces."""
