package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
)

// plug is ControllerPublishVolume with attachVolume of the plugin (pkg/csi): the slot that holds the volume
// already, else the lowest free one, through POST config, its task followed, its outcome not looked at.
// Not played: the check that the disk exists in its storage, replication and resizing.
func (a *attacher) plug(ctx context.Context, nodeID string, v volume, pv *corev1.PersistentVolume, silent bool) (int, error) {
	machine, err := a.find(ctx, nodeID)
	if err != nil {
		return 0, fmt.Errorf("failed to get vm config: %w", err)
	}
	if slot, there := attachedSlot(machine.config, v.disk); there {
		logf("attacher: %s is on %s of %d already", pv.Name, slotName(slot), machine.vmid)
		return slot, nil
	}
	slot, err := freeSlot(machine.config)
	if err != nil {
		return 0, err
	}
	value, err := diskValue(v, pv.Spec.CSI.VolumeAttributes, pv.Spec.CSI.ReadOnly, slot)
	if err != nil {
		return 0, err
	}
	if silent {
		return slot, a.plugInVain(ctx, machine, v, pv, slot)
	}
	task, err := a.pve.setDisk(ctx, machine, slotName(slot), value)
	if err != nil {
		return 0, fmt.Errorf("unable to attach disk: %w, options={Name:%s Value:%s}", err, slotName(slot), value)
	}
	exit, err := a.pve.follow(ctx, machine.node, task)
	if err != nil {
		return 0, fmt.Errorf("unable to attach virtual machine disk: %w", err)
	}
	logf("attacher: %s to %s of %d, task: %s", pv.Name, slotName(slot), machine.vmid, outcome(exit))
	return slot, a.settle(ctx, machine.vmid, v.disk, true, fmt.Errorf("volume %s/%s/%s/%s is not attached to VM %d", v.region, v.zone, v.storage, v.disk, machine.vmid))
}

// plugInVain makes a request whose task fails at Proxmox VE and keeps quiet about it: a failed qmconfig task
// in the task log, no key in the configuration, no error to the cluster. The text is the one of a throttle
// object that QEMU kept of an earlier disk. Against a server that cannot be told to fail, the disk of the
// request does not exist.
func (a *attacher) plugInVain(ctx context.Context, machine *vm, v volume, pv *corev1.PersistentVolume, slot int) error {
	failure := fmt.Sprintf("hotplug problem - adding drive failed: attempt to add duplicate property 'throttle-drive-%s' to object", slotName(slot))
	if a.poison == nil || a.poison(ctx, machine, failure) != nil {
		v.disk += "-unplugged"
	}
	value, err := diskValue(v, pv.Spec.CSI.VolumeAttributes, pv.Spec.CSI.ReadOnly, slot)
	if err != nil {
		return err
	}
	task, err := a.pve.setDisk(ctx, machine, slotName(slot), value)
	exit := "refused"
	if err == nil {
		if exit, err = a.pve.follow(ctx, machine.node, task); err != nil {
			return err
		}
	}
	logf("attacher: %s counts as attached to %s of %d and is not; task: %s", pv.Name, slotName(slot), machine.vmid, outcome(exit))
	if exit == "OK" {
		return errors.New("the rig's request that was to fail succeeded")
	}
	return nil
}

// unplug is ControllerUnpublishVolume: unlink the slot that holds the volume, wait until it is gone. A
// machine that is gone holds nothing.
func (a *attacher) unplug(ctx context.Context, nodeID string, v volume, ghost bool) error {
	machine, err := a.find(ctx, nodeID)
	if errors.Is(err, errNoVM) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("failed to get vm config: %w", err)
	}
	slot, there := attachedSlot(machine.config, v.disk)
	if !there {
		return nil
	}
	if ghost {
		logf("attacher: %s stays on %s of %d as a ghost", v.disk, slotName(slot), machine.vmid)
		return nil
	}
	task, err := a.pve.unlinkDisk(ctx, machine, slotName(slot))
	if err != nil {
		return fmt.Errorf("failed to unlink disk: %w", err)
	}
	exit, err := a.pve.follow(ctx, machine.node, task)
	if err != nil {
		return fmt.Errorf("unable to detach virtual machine disk: %w", err)
	}
	logf("attacher: %s off %s of %d, task: %s", v.disk, slotName(slot), machine.vmid, outcome(exit))
	return a.settle(ctx, machine.vmid, v.disk, false, fmt.Errorf("volume %s/%s/%s/%s still attached to VM %d", v.region, v.zone, v.storage, v.disk, machine.vmid))
}

// settle is waitAttachVolume and waitDetachVolume of the plugin.
func (a *attacher) settle(ctx context.Context, vmid int, disk string, want bool, late error) error {
	deadline := time.Now().Add(settleTime)
	for {
		machine, err := a.pve.findVM(ctx, vmid)
		if errors.Is(err, errNoVM) && !want {
			return nil
		}
		if err != nil {
			return fmt.Errorf("failed to get vm config: %w", err)
		}
		if _, there := attachedSlot(machine.config, disk); there == want {
			return nil
		}
		if time.Now().After(deadline) {
			return late
		}
		if !sleep(ctx, settleInterval) {
			return ctx.Err()
		}
	}
}

// plugged says whether a volume of the driver is in the configuration of the node's machine. Volumes of
// other drivers and nodes without a machine always count as plugged.
func (a *attacher) plugged(ctx context.Context, node *corev1.Node, needed attachable) bool {
	if needed.driver != driverName {
		return true
	}
	v, err := parseVolume(needed.handle)
	if err != nil {
		return false
	}
	machine, err := a.find(ctx, node.Name)
	if errors.Is(err, errNoVM) {
		return true
	}
	if err != nil {
		return false
	}
	_, there := attachedSlot(machine.config, v.disk)
	return there
}

func outcome(exit string) string {
	if exit == "" {
		return "none"
	}
	return exit
}

// mergePatch is the difference of two objects as the external-attacher sends it.
func mergePatch(before, after any) ([]byte, error) {
	old, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	next, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	return jsonpatch.CreateMergePatch(old, next)
}
