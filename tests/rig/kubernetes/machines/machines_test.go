package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestTheLowestFreeSlotFromScsi1ToScsi29IsTaken(t *testing.T) {
	config := map[string]any{"scsi0": "local-lvm:vm-1-disk-0,size=32G", "scsi1": "local-lvm:vm-9999-pvc-a,size=1G", "scsi3": "x:y", "ide2": "none"}
	if present, free := lunOf(config, "local-lvm:vm-9999-pvc-b"); present != 0 || free != 2 {
		t.Errorf("present %d, free %d", present, free)
	}
	if present, _ := lunOf(config, "local-lvm:vm-9999-pvc-a"); present != 1 {
		t.Errorf("a plugged volume is at %d", present)
	}
	for lun := 1; lun <= highestLun; lun++ {
		config[slotName(lun)] = "local-lvm:other"
	}
	// scsi30 is PVE's, and the plugin never tries it.
	if present, free := lunOf(config, "local-lvm:vm-9999-pvc-b"); present != 0 || free != 0 {
		t.Errorf("a full VM has %d, %d", present, free)
	}
}

func slotName(lun int) string {
	if lun < 10 {
		return "scsi" + string(rune('0'+lun))
	}
	return "scsi" + string(rune('0'+lun/10)) + string(rune('0'+lun%10))
}

func TestAHandleNamesStorageAndDisk(t *testing.T) {
	pv := &corev1.PersistentVolume{}
	if _, err := diskOf(pv); err == nil {
		t.Error("a volume without CSI has no disk")
	}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{VolumeHandle: "lab/pve1/store/9999/vm-9999-pvc-a.raw"}
	if disk, err := diskOf(pv); err != nil || disk != "store:9999/vm-9999-pvc-a.raw" {
		t.Errorf("%s, %v", disk, err)
	}
}

func TestTheNameOfAMachineIsToldOrTheImagesOwn(t *testing.T) {
	meta := "instance-id: i-1\nlocal-hostname: from-meta\n"
	for _, one := range []struct {
		config cloudConfig
		meta   *string
		want   string
	}{
		{cloudConfig{Hostname: "from-user", FQDN: "x.example"}, &meta, "from-user"},
		{cloudConfig{FQDN: "full.example"}, &meta, "full"},
		{cloudConfig{}, &meta, "from-meta"},
		{cloudConfig{}, nil, defaultHostname},
	} {
		if name := hostname(&one.config, one.meta); name != one.want {
			t.Errorf("%s, not %s", name, one.want)
		}
	}
}

func TestUserDataWinOverVendorDataOfTheSameKey(t *testing.T) {
	user, vendor := "#cloud-config\nhostname: a\n", "#cloud-config\nhostname: b\nruncmd: [[kubeadm, join, --config, /x]]\n"
	config, err := merged(&seed{User: &user, Vendor: &vendor})
	if err != nil || config.Hostname != "a" || len(config.RunCmd) != 1 {
		t.Fatalf("%+v, %v", config, err)
	}
	words, err := joinCommand(config)
	if err != nil || !slices.Equal(words, []string{"--config", "/x"}) {
		t.Errorf("%v, %v", words, err)
	}
}

func TestAJoinIsFoundInEitherFormAndNothingElseIsOne(t *testing.T) {
	for _, command := range []any{"kubeadm join 127.0.0.1:6443 --token x", []any{"sh", "-c", "kubeadm join 127.0.0.1:6443 --token x"}} {
		words, err := joinCommand(&cloudConfig{RunCmd: []any{"echo kubeadm join", command}})
		if err != nil || !slices.Equal(words, []string{"127.0.0.1:6443", "--token", "x"}) {
			t.Errorf("%v: %v, %v", command, words, err)
		}
	}
	if _, err := joinCommand(&cloudConfig{RunCmd: []any{"kubeadm version"}}); err == nil {
		t.Error("nothing joins there")
	}
}

func TestFilesAreDecodedAndStayBelowTheRoot(t *testing.T) {
	root := t.TempDir()
	err := writeFiles(root, []writeFile{{Path: "/etc/a", Content: "aGVsbG8=", Encoding: "b64"}, {Path: "/etc/b", Content: "plain"}})
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := os.ReadFile(filepath.Join(root, "etc/a")); string(body) != "hello" {
		t.Errorf("%s", body)
	}
	for _, path := range []string{"relative", ""} {
		if writeFiles(root, []writeFile{{Path: path, Content: "x"}}) == nil {
			t.Errorf("%q was written", path)
		}
	}
	if err := writeFiles(root, []writeFile{{Path: "/../outside", Content: "x"}}); err != nil {
		t.Error(err) // `/..` is `/`, as on the machine
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(root), "outside")); err == nil {
		t.Error("a file left the root")
	}
}

func TestTaintsAndAddressesAreRead(t *testing.T) {
	taints, err := taintsOf("gpu=true:NoSchedule,old:NoExecute")
	if err != nil || len(taints) != 2 || taints[0].Value != "true" || taints[1].Effect != corev1.TaintEffectNoExecute {
		t.Errorf("%v, %v", taints, err)
	}
	if _, err := taintsOf("nonsense"); err == nil {
		t.Error("`nonsense` is no taint")
	}
	one := map[string]any{"config": []any{map[string]any{"subnets": []any{map[string]any{"address": "10.0.0.5/24"}}}}}
	two := map[string]any{"ethernets": map[string]any{"eth0": map[string]any{"addresses": []any{"10.0.0.6/24"}}}}
	if a, b := firstAddress(one), firstAddress(two); a != "10.0.0.5" || b != "10.0.0.6" {
		t.Errorf("%s, %s", a, b)
	}
}
