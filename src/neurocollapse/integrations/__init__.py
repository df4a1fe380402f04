"""Measuring inside other libraries' loops: one module for each library, imported by itself and only when asked for."""
