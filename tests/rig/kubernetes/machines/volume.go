package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// driverName is DriverName of the plugin (pkg/csi/driver.go).
const driverName = "csi.proxmox.sinextra.dev"

const (
	// firstSlot and lastSlot bound the plugin's loop in attachVolume (pkg/csi/utils.go): lun = 1; lun < 30.
	firstSlot = 1
	lastSlot  = 29
	// highestSCSI is the last scsi key that Proxmox VE knows.
	highestSCSI = 30
)

// errNoFreeLUN is the text that the plugin answers when the loop found nothing.
var errNoFreeLUN = errors.New("no free lun found")

// volume is a parsed volume handle, region/zone/storage/disk.
type volume struct {
	region, zone, storage, disk string
}

// parseVolume follows parseVolumeID of the plugin: four parts, slashes allowed in the last one.
func parseVolume(handle string) (volume, error) {
	parts := strings.SplitN(handle, "/", 4)
	if len(parts) != 4 {
		return volume{}, errors.New("VolumeID must be in the format of region/zone/storageName/diskName")
	}
	return volume{parts[0], parts[1], parts[2], parts[3]}, nil
}

// attachedSlot finds a volume among the scsi keys of a configuration. Like the plugin's isVolumeAttached
// it looks for the disk's name anywhere in the value, on scsi0 and scsi30 too.
func attachedSlot(config map[string]any, disk string) (int, bool) {
	if disk == "" {
		return 0, false
	}
	for slot := 0; slot <= highestSCSI; slot++ {
		if strings.Contains(text(config[slotName(slot)]), disk) {
			return slot, true
		}
	}
	return 0, false
}

// freeSlot is the lowest of scsi1..scsi29 that the configuration does not mention.
func freeSlot(config map[string]any) (int, error) {
	for slot := firstSlot; slot <= lastSlot; slot++ {
		if text(config[slotName(slot)]) == "" {
			return slot, nil
		}
	}
	return 0, errNoFreeLUN
}

func slotName(slot int) string { return "scsi" + strconv.Itoa(slot) }

// slotWWN is the world wide name by which the node side finds the disk.
func slotWWN(slot int) string {
	return hex.EncodeToString(fmt.Appendf(nil, "PVC-ID%02d", slot))
}

// diskValue builds the configuration value of a plugged disk from the volume and the StorageClass
// parameters that the provisioner wrote into the PersistentVolume, as ExtractParameters and ToCFG of the
// plugin do. The plugin's order of options is random; here they are sorted.
func diskValue(v volume, attributes map[string]string, readOnly bool, slot int) (string, error) {
	options := map[string]string{
		"wwn": "0x" + slotWWN(slot),
		// The defaults of ExtractParameters: no backup, an IO thread. false is written as 0, not left out.
		"backup":    "0",
		"iothread":  "1",
		"replicate": "0",
	}
	for attribute, option := range map[string]string{"aio": "aio", "cache": "cache"} {
		if value := attributes[attribute]; value != "" {
			options[option] = value
		}
	}
	for _, name := range []string{"backup", "iothread", "replicate", "ssd"} {
		if value := attributes[name]; value != "" {
			set, _ := strconv.ParseBool(value)
			options[name] = "0"
			if set {
				options[name] = "1"
			}
		}
	}
	if options["ssd"] == "1" {
		options["discard"] = "on"
	}
	for attribute, names := range map[string][2]string{
		"diskIOPS": {"iops_rd", "iops_wr"},
		"diskMBps": {"mbps_rd", "mbps_wr"},
	} {
		value := attributes[attribute]
		if value == "" {
			continue
		}
		number, err := strconv.Atoi(value)
		if err != nil {
			return "", fmt.Errorf("parameters %s must be a number", attribute)
		}
		if number > 0 {
			options[names[0]], options[names[1]] = value, value
		}
	}
	if readOnly {
		options["ro"] = "1"
	}
	parts := make([]string, 0, len(options))
	for name, value := range options {
		parts = append(parts, name+"="+value)
	}
	sort.Strings(parts)
	return fmt.Sprintf("%s:%s,%s", v.storage, v.disk, strings.Join(parts, ",")), nil
}

// parseProviderID reads proxmox://REGION/VMID as the plugin's pkg/utils/provider does.
func parseProviderID(id string) (vmid int, ok bool) {
	rest, found := strings.CutPrefix(id, "proxmox://")
	if !found {
		return 0, false
	}
	_, number, found := strings.Cut(rest, "/")
	if !found {
		return 0, false
	}
	vmid, err := strconv.Atoi(number)
	return vmid, err == nil
}

// parseNodeID reads the node ID that the node plugin registered, NAME or NAME/VMID (pkg/utils/node).
func parseNodeID(id string) (name string, vmid int, err error) {
	name, number, found := strings.Cut(id, "/")
	if name == "" {
		return "", 0, errors.New("NodeID must be in format <nodeName>/<vmID> or <nodeName>")
	}
	if found {
		if vmid, err = strconv.Atoi(number); err != nil {
			return "", 0, errors.New("NodeID must be in format <nodeName>/<vmID> or <nodeName>")
		}
	}
	return name, vmid, nil
}
