#!/bin/sh
# The least that `capplan apply` needs on Proxmox VE beyond the reader's role: to start, shut down and keep off
# the cluster's VMs, and to unplug a ghost. Run as root on one host of each cluster, after pve-role.sh.
# VMs that capplan must never touch stay out of the pool. `--destroy` needs VM.Allocate there as well.
set -eu
pool="${1:?usage: pve-role-apply.sh POOL, the pool of the cluster's VMs}"
pveum role add CapplanApply --privs "VM.Audit,VM.PowerMgmt,VM.Config.Options,VM.Config.Disk"
pveum user add capplan-apply@pve --comment "capplan apply"
pveum acl modify / --users capplan-apply@pve --roles CapplanReader
pveum acl modify "/pool/$pool" --users capplan-apply@pve --roles CapplanApply
pveum user token add capplan-apply@pve apply --privsep 0
