"""Reporting: records of what was measured, and the events, tables and pictures made of them."""
