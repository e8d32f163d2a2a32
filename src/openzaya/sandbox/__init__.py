"""Where untrusted programs will run; in this release, the check whether they could."""
