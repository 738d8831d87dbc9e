"""Small things that the rest of the package shares.

``import mmscope`` runs the version check from here, so keep this file free of
imports: it must load where torch is missing.
"""
