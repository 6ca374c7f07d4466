"""The SESR network and its price."""
