package main

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheDriverAdvertisesWhatItsLabelSays(t *testing.T) {
	topology := map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: "z"}
	for label, want := range map[string]int32{"": 24, "28": 28, "30": 30, "31": 24, "-1": 24, "many": 24, "1": 1} {
		labels := map[string]string{maxAttachmentsLabel: label}
		if label == "" {
			delete(labels, maxAttachmentsLabel)
		}
		for key, value := range topology {
			labels[key] = value
		}
		entry, err := driverEntry(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}})
		if err != nil || entry.Allocatable == nil || *entry.Allocatable.Count != want || entry.NodeID != "n" || len(entry.TopologyKeys) != 2 {
			t.Errorf("%q: %+v, %v", label, entry, err)
		}
	}
	// The kubelet drops a limit of 0: then there is none.
	topology[maxAttachmentsLabel] = "0"
	if entry, err := driverEntry(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: topology}}); err != nil || entry.Allocatable != nil {
		t.Errorf("%+v, %v", entry, err)
	}
	delete(topology, corev1.LabelTopologyZone)
	if _, err := driverEntry(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: topology}}); err == nil {
		t.Error("a node without a zone registered its driver")
	}
	topology[nodeLabel] = "host"
	if _, err := driverEntry(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: topology}}); err != nil {
		t.Error(err)
	}
}

func TestAMachineDescribesItself(t *testing.T) {
	g := guest{VMID: 207, Config: map[string]any{
		"cores": float64(4), "sockets": "2", "memory": "32768", "boot": "order=ide2;virtio0", "ide2": "local:cloudinit,media=cdrom",
		"virtio0": "local-lvm:vm-207-disk-0,size=64G", "smbios1": "uuid=ABCDEF00-0000-4000-8000-000000000207,serial=x",
		"ipconfig0": "ip=192.0.2.7/24,gw=192.0.2.1",
	}}
	flags := &kubeletFlags{nodeName: "n7", labels: map[string]string{"a": "b"}, providerID: "proxmox://r/207"}
	node := newMachine(g, flags, "", "v1.36.3").node()
	if got := node.Status.Capacity.Cpu().Value(); got != 8 {
		t.Errorf("%d processors", got)
	}
	missing := int64(32768)<<20 - node.Status.Allocatable.Memory().Value()
	if missing != 700<<20 {
		t.Errorf("%d bytes are not allocatable", missing)
	}
	if node.Status.NodeInfo.SystemUUID != "abcdef00-0000-4000-8000-000000000207" || node.Status.Addresses[0].Address != "192.0.2.7" ||
		node.Labels["a"] != "b" || node.Labels[corev1.LabelHostname] != "n7" || systemDisk(g) != "local-lvm:vm-207-disk-0" {
		t.Errorf("%+v", node)
	}
	for network, want := range map[string]string{
		"version: 1\nconfig:\n- type: physical\n  subnets: [{type: static, address: 192.0.2.8/24}]\n": "192.0.2.8",
		"version: 2\nethernets: {eth0: {addresses: [192.0.2.9/24]}}\n":                                "192.0.2.9",
		"network: {version: 2, ethernets: {eth0: {addresses: [192.0.2.10/24]}}}\n":                    "192.0.2.10",
		"version: 1\nconfig: [{subnets: [{type: dhcp4}]}]\n":                                          "192.0.2.7",
	} {
		if got := newMachine(g, flags, network, "").addrs; len(got) != 1 || got[0] != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

func TestPodsComeUpAndEndAsAKubeletSaysThem(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}},
		Containers:     []corev1.Container{{Name: "main"}},
	}}
	pod.Status = creatingStatus(pod, "192.0.2.1")
	if pod.Status.Phase != corev1.PodPending || pod.Status.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
		t.Errorf("%+v", pod.Status)
	}
	pod.Status = runningStatus(pod, "192.0.2.1", "10.244.0.2")
	if pod.Status.Phase != corev1.PodRunning || pod.Status.InitContainerStatuses[0].State.Terminated == nil ||
		pod.Status.InitContainerStatuses[1].State.Running == nil || !pod.Status.ContainerStatuses[0].Ready || pod.Status.StartTime == nil {
		t.Errorf("%+v", pod.Status)
	}
	for exit, want := range map[int32]corev1.PodPhase{0: corev1.PodSucceeded, 143: corev1.PodFailed} {
		if status := endedStatus(pod, exit); status.Phase != want || status.ContainerStatuses[0].State.Terminated.ExitCode != exit {
			t.Errorf("%+v", status)
		}
	}
	seconds := int64(30)
	pod.DeletionGracePeriodSeconds = &seconds
	if got := grace(pod, time.Second); got != time.Second {
		t.Errorf("%s of grace", got)
	}
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x"}}
	for _, condition := range runningStatus(pod, "", "").Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			t.Error("ready before its gate")
		}
	}
}
