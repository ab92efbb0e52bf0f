package main

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	// kernelShare is what a Linux guest of 8 to 64 GiB keeps from its memory before the kubelet sees the
	// rest as capacity (page tables, crash kernel): about 600 MiB.
	kernelShare = 600 << 20
	// evictionHard is the kubelet's default memory.available<100Mi, taken off the allocatable memory. Both
	// together are about 700 MiB.
	evictionHard = 100 << 20
	// diskShare is the kubelet's default nodefs.available<10 %.
	diskShare = 10
	// maxPods is the kubelet's default.
	maxPods = 110
)

// machine is a virtual machine whose kubelet runs: what it says about itself.
type machine struct {
	vmid     int
	flags    *kubeletFlags
	memory   int64
	cpus     int64
	disk     int64
	uuid     string
	addrs    []string
	version  string
	onStatus func()
}

// newMachine derives the machine's own facts from its configuration and cloud-init network data.
func newMachine(g guest, flags *kubeletFlags, network, version string) *machine {
	cores := wholeNumber(g.setting("cores"), 1)
	sockets := wholeNumber(g.setting("sockets"), 1)
	cpus := cores * sockets
	if vcpus := wholeNumber(g.setting("vcpus"), 0); vcpus > 0 {
		cpus = min(cpus, vcpus)
	}
	// The setting may read "current=32768"; 512 is qemu-server's default.
	memory := strings.TrimPrefix(g.setting("memory"), "current=")
	m := &machine{
		vmid: g.VMID, flags: flags, version: version,
		cpus: int64(cpus), memory: int64(wholeNumber(memory, 512)) << 20,
		disk: diskSize(g.setting(systemDiskKey(g))),
		uuid: smbiosUUID(g.setting("smbios1")),
	}
	m.addrs = flags.nodeIPs
	if len(m.addrs) == 0 {
		m.addrs = configuredAddresses(g, network)
	}
	if len(m.addrs) == 0 {
		// An address that a DHCP server might have given, from a documentation range (RFC 5737).
		m.addrs = []string{fmt.Sprintf("198.51.100.%d", g.VMID%253+1)}
	}
	return m
}

// node is the object that the kubelet registers: initialNode in pkg/kubelet/kubelet_node_status.go.
func (m *machine) node() *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: m.flags.nodeName,
		corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(labels, m.flags.labels)
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.flags.nodeName, Labels: labels,
			Annotations: map[string]string{managedAttachAnnotation: "true"},
		},
		Spec: corev1.NodeSpec{ProviderID: m.flags.providerID, Taints: m.flags.taints},
	}
	m.fillStatus(&node.Status)
	now := metav1.Now()
	setCondition(&node.Status, corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", now)
	setCondition(&node.Status, corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", now)
	setCondition(&node.Status, corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available", now)
	setCondition(&node.Status, corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", "container runtime network not ready", now)
	return node
}

// fillStatus writes the parts of a node's status that describe the machine.
func (m *machine) fillStatus(status *corev1.NodeStatus) {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(m.cpus, resource.DecimalSI),
		corev1.ResourceMemory:           kibibytes(max(m.memory-kernelShare, m.memory/2)),
		corev1.ResourceEphemeralStorage: kibibytes(m.disk),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	allocatable := capacity.DeepCopy()
	left := capacity.Memory().Value() - evictionHard
	allocatable[corev1.ResourceMemory] = kibibytes(left)
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.disk-m.disk/diskShare, resource.DecimalSI)
	status.Capacity, status.Allocatable = capacity, allocatable
	status.Addresses = nil
	for _, ip := range m.addrs {
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: m.flags.nodeName})
	status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: strings.ReplaceAll(m.uuid, "-", ""), SystemUUID: m.uuid,
		KernelVersion: "6.1.0-28-amd64", OSImage: "Debian GNU/Linux 12 (bookworm)",
		ContainerRuntimeVersion: "containerd://2.1.4", KubeletVersion: m.version,
		OperatingSystem: "linux", Architecture: runtime.GOARCH,
	}
	status.DaemonEndpoints.KubeletEndpoint.Port = 10250
}

func (m *machine) readied() {
	if m.onStatus != nil {
		m.onStatus()
	}
}

func kibibytes(bytes int64) resource.Quantity {
	return *resource.NewQuantity(bytes>>10<<10, resource.BinarySI)
}

// systemDiskKey is the key of the disk that the machine boots from: the first disk of the boot order, else
// scsi0.
func systemDiskKey(g guest) string {
	if order, ok := strings.CutPrefix(g.setting("boot"), "order="); ok {
		for _, key := range strings.Split(order, ";") {
			value := g.setting(key)
			if diskPattern.MatchString(key) && value != "" && !strings.Contains(value, "media=cdrom") {
				return key
			}
		}
	}
	return "scsi0"
}

var (
	diskPattern = regexp.MustCompile(`^(scsi|virtio|sata|ide)[0-9]+$`)
	sizePattern = regexp.MustCompile(`(?:^|,)size=([0-9]+(?:\.[0-9]+)?)([KMGT]?)`)
)

// systemDisk is the volume that the machine boots from.
func systemDisk(g guest) string {
	volume, _, _ := strings.Cut(g.setting(systemDiskKey(g)), ",")
	return volume
}

// diskSize reads size=64G of a drive; 32 GiB when it does not say.
func diskSize(drive string) int64 {
	match := sizePattern.FindStringSubmatch(drive)
	if match == nil {
		return 32 << 30
	}
	number, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return 32 << 30
	}
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]
	return int64(number * float64(int64(1)<<shift))
}

// configuredAddresses are the machine's static addresses: from the network data on its cloud-init drive,
// else from its ipconfigN settings.
func configuredAddresses(g guest, network string) []string {
	var addresses []string
	add := func(value string) {
		address, _, _ := strings.Cut(value, "/")
		if net.ParseIP(address) != nil {
			addresses = append(addresses, address)
		}
	}
	var v1 struct {
		Config []struct {
			Subnets []struct {
				Address string `json:"address"`
			} `json:"subnets"`
		} `json:"config"`
	}
	if yaml.Unmarshal([]byte(network), &v1) == nil {
		for _, device := range v1.Config {
			for _, subnet := range device.Subnets {
				add(subnet.Address)
			}
		}
	}
	var v2 struct {
		Network *struct {
			Ethernets map[string]struct {
				Addresses []string `json:"addresses"`
			} `json:"ethernets"`
		} `json:"network"`
		Ethernets map[string]struct {
			Addresses []string `json:"addresses"`
		} `json:"ethernets"`
	}
	if yaml.Unmarshal([]byte(network), &v2) == nil {
		ethernets := v2.Ethernets
		if v2.Network != nil {
			ethernets = v2.Network.Ethernets
		}
		for _, device := range ethernets {
			for _, address := range device.Addresses {
				add(address)
			}
		}
	}
	for i := 0; len(addresses) == 0 && i < 4; i++ {
		for _, part := range strings.Split(g.setting("ipconfig"+strconv.Itoa(i)), ",") {
			if value, ok := strings.CutPrefix(part, "ip="); ok {
				add(value)
			}
		}
	}
	return addresses
}
