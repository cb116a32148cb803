"""A small stand-in for DomainBed: the names, signatures and files that an algorithm and its scripts meet."""
