"""Adapters into LibMTL, DomainBed and Lightning; each imports its framework when it is asked for."""
