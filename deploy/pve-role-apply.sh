#!/bin/sh
# The least that `capplan apply` needs on Proxmox VE beyond the reader's role: to start, shut down and keep off
# the cluster's VMs, to unplug a ghost, to give a spare the image that resets it, and to make workers in the pool.
# Without Pool.Audit on the pool itself, Proxmox VE leaves the pool out of a VM's row. A role on a path replaces what
# is inherited. Run as root on one host of each cluster, after pve-role.sh. VMs that capplan must never touch stay out of the pool.
set -eu
usage="usage: pve-role-apply.sh POOL IMAGES [TEMPLATE DISKS BRIDGE]
POOL the pool of the workers' VMs, IMAGES a storage for ISO images (best one of its own); for new workers also the
template's VMID, the storage of their disks, and the bridge (vmbr1, or vmbr1/20 with a VLAN)"
pool="${1:?$usage}"
images="${2:?$usage}"
user=capplan-apply@pve
pveum role add CapplanApply --privs "Pool.Audit,VM.Audit,VM.PowerMgmt,VM.Config.Options,VM.Config.Disk,\
VM.Config.CDROM,VM.Config.Cloudinit"
pveum role add CapplanImages --privs "Datastore.Audit,Datastore.AllocateTemplate,Datastore.Allocate"
pveum user add "$user" --comment "capplan apply"
pveum acl modify / --users "$user" --roles CapplanReader
pveum acl modify "/storage/$images" --users "$user" --roles CapplanImages
if [ $# -lt 5 ]; then
    pveum acl modify "/pool/$pool" --users "$user" --roles CapplanApply
else
    # Whoever makes VMs destroys them as well: VM.Allocate is one privilege.
    pveum role add CapplanMake --privs "Pool.Audit,VM.Audit,VM.Allocate,VM.PowerMgmt,VM.Config.Options,VM.Config.Disk,\
VM.Config.CPU,VM.Config.Memory,VM.Config.Network,VM.Config.CDROM,VM.Config.Cloudinit"
    pveum role add CapplanClone --privs "VM.Audit,VM.Clone"
    pveum role add CapplanDisks --privs "Datastore.AllocateSpace"
    pveum role add CapplanBridge --privs "SDN.Use"
    pveum acl modify "/pool/$pool" --users "$user" --roles CapplanMake
    pveum acl modify "/vms/$3" --users "$user" --roles CapplanClone
    pveum acl modify "/storage/$4" --users "$user" --roles CapplanDisks
    pveum acl modify "/sdn/zones/localnetwork/$5" --users "$user" --roles CapplanBridge
fi
pveum user token add "$user" apply --privsep 0
