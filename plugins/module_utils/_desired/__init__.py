# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of desired state: each file converges one kind of document, for a module, the boot unit and the agent alike.

A document is plain data with the parameters of the module of the same name. What was applied is saved on the node
(``store``) and applied again at boot.
"""
