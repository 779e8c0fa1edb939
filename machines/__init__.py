"""Several machines that train one network: the launcher, the warden, and each process's client."""
