#!/bin/sh
# The least that `capplan apply` needs on Proxmox VE beyond the reader's role: to start, shut down and keep off
# the cluster's VMs, to unplug a ghost, and to make workers in the pool. Run as root on one host of each cluster,
# after pve-role.sh. VMs that capplan must never touch stay out of the pool.
set -eu
usage="usage: pve-role-apply.sh POOL [TEMPLATE DISKS IMAGES BRIDGE], for new workers: the template's VMID, the storage
of their disks, the storage of ISO images (dedicated, best), the bridge (vmbr1, or vmbr1/20 with a VLAN)"
pool="${1:?$usage}"
pveum role add CapplanApply --privs "VM.Audit,VM.PowerMgmt,VM.Config.Options,VM.Config.Disk"
pveum user add capplan-apply@pve --comment "capplan apply"
pveum acl modify / --users capplan-apply@pve --roles CapplanReader
if [ $# -lt 5 ]; then
    pveum acl modify "/pool/$pool" --users capplan-apply@pve --roles CapplanApply
else
    # Whoever makes VMs destroys them as well: VM.Allocate is one privilege.
    pveum role add CapplanMake --privs "VM.Audit,VM.Allocate,VM.PowerMgmt,VM.Config.Options,VM.Config.Disk,\
VM.Config.CPU,VM.Config.Memory,VM.Config.Network,VM.Config.CDROM,VM.Config.Cloudinit"
    pveum role add CapplanClone --privs "VM.Audit,VM.Clone"
    pveum role add CapplanDisks --privs "Datastore.Audit,Datastore.AllocateSpace"
    pveum role add CapplanImages --privs "Datastore.Audit,Datastore.AllocateTemplate,Datastore.Allocate"
    pveum role add CapplanBridge --privs "SDN.Use"
    pveum acl modify "/pool/$pool" --users capplan-apply@pve --roles CapplanMake
    pveum acl modify "/vms/$2" --users capplan-apply@pve --roles CapplanClone
    pveum acl modify "/storage/$3" --users capplan-apply@pve --roles CapplanDisks
    pveum acl modify "/storage/$4" --users capplan-apply@pve --roles CapplanImages
    pveum acl modify "/sdn/zones/localnetwork/$5" --users capplan-apply@pve --roles CapplanBridge
fi
pveum user token add capplan-apply@pve apply --privsep 0
