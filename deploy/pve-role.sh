#!/bin/sh
# The least that `capplan report` needs on Proxmox VE. Run as root on one host of each cluster.
# The last command prints the token's secret once: keep it in a file that only capplan can read.
set -eu
pveum role add CapplanReader --privs "Sys.Audit,VM.Audit,Datastore.Audit,Mapping.Audit,Pool.Audit"
pveum user add capplan@pve --comment "capplan, read-only"
pveum acl modify / --users capplan@pve --roles CapplanReader
pveum user token add capplan@pve reader --privsep 0
