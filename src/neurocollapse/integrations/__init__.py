"""Measures neural collapse in other libraries' training loops. Import the module of the library that you use."""
