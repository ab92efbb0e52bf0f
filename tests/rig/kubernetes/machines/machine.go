package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	kubeadmv1 "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"k8s.io/kubernetes/cmd/kubeadm/app/discovery"
	kubeadmconfig "k8s.io/kubernetes/cmd/kubeadm/app/util/config"
	"k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	"sigs.k8s.io/yaml"
)

const (
	// maxVolumesLabel overrides the number of volumes proxmox-csi advertises (v0.12.0 and later).
	maxVolumesLabel = "csi.proxmox.sinextra.dev/max-volume-attachments"
	// defaultVolumes is what it advertises without the label, or with one outside of 0..30.
	defaultVolumes = 24
	// ownMemory is what kernel and firmware of a VM keep for themselves: about 500 MiB of the recorded 32 GiB VMs.
	ownMemory = 500 << 20
	// reservedMemory is kubelet's reserve and eviction threshold: recorded nodes allow 500 MiB less than they have.
	reservedMemory = 500 << 20
)

// machine is a VM on its way into the cluster.
type machine struct {
	*joiner
	vm      guest
	boot    boot
	root    string
	network *string
	config  *kubeadmapi.JoinConfiguration
	flags   map[string]string
}

// join does what `kubeadm join` and the kubelet that it starts do.
func (m *machine) join(ctx context.Context, words []string) error {
	if err := m.readCommand(words); err != nil {
		return err
	}
	m.boot.Name = m.config.NodeRegistration.Name
	m.flags = m.kubeletFlags()
	m.note(m.boot, "discovering", nil)
	found, err := discovery.For(nil, m.config)
	if err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	folder := m.folder(m.vm.VMID)
	bootstrapConfig := filepath.Join(folder, "bootstrap-kubelet.conf")
	if err := clientcmd.WriteToFile(*found, bootstrapConfig); err != nil {
		return err
	}
	m.note(m.boot, "bootstrapping", nil)
	kubeconfig := filepath.Join(folder, "kubelet.conf")
	limited, cancel := context.WithTimeout(ctx, m.discovery)
	defer cancel()
	if err := bootstrap.LoadClientCert(limited, kubeconfig, bootstrapConfig, filepath.Join(folder, "pki"), types.NodeName(m.boot.Name)); err != nil {
		return fmt.Errorf("TLS bootstrap: %w", err)
	}
	if err := os.Remove(bootstrapConfig); err != nil {
		return err
	}
	client, err := clientFor(kubeconfig)
	if err != nil {
		return err
	}
	m.note(m.boot, "registering", nil)
	if err := m.register(ctx, client); err != nil {
		return fmt.Errorf("registration of node %s: %w", m.boot.Name, err)
	}
	m.world.mutex.Lock()
	defer m.world.mutex.Unlock()
	m.joined[m.boot.Name] = client
	delete(m.gone, m.boot.Name)
	return nil
}

// readCommand reads the JoinConfiguration that the command names, or makes one of its flags, as kubeadm does.
func (m *machine) readCommand(words []string) error {
	given := &kubeadmv1.JoinConfiguration{}
	file := ""
	bootstrapToken := &kubeadmv1.BootstrapTokenDiscovery{}
	for at := 0; at < len(words); at++ {
		name, value, inline := strings.Cut(words[at], "=")
		if !strings.HasPrefix(name, "--") {
			bootstrapToken.APIServerEndpoint = words[at]
			continue
		}
		if !inline && at+1 < len(words) && !strings.HasPrefix(words[at+1], "--") {
			at++
			value = words[at]
		}
		switch name {
		case "--config":
			file = value
		case "--token":
			bootstrapToken.Token, given.Discovery.TLSBootstrapToken = value, value
		case "--discovery-token-ca-cert-hash":
			bootstrapToken.CACertHashes = append(bootstrapToken.CACertHashes, value)
		case "--discovery-token-unsafe-skip-ca-verification":
			bootstrapToken.UnsafeSkipCAVerification = true
		case "--node-name":
			given.NodeRegistration.Name = value
		case "--ignore-preflight-errors", "-v", "--v":
		default:
			return fmt.Errorf("the machines do not know the flag %s of kubeadm join", name)
		}
	}
	options := kubeadmconfig.LoadOrDefaultConfigurationOptions{SkipCRIDetect: true}
	text := []byte(nil)
	if file != "" {
		body, err := os.ReadFile(filepath.Join(m.root, filepath.Clean("/"+file)))
		if err != nil {
			return fmt.Errorf("kubeadm join --config %s: no write_files makes it", file)
		}
		text = body
	} else {
		given.Discovery.BootstrapToken = bootstrapToken
		given.TypeMeta = metav1.TypeMeta{APIVersion: kubeadmv1.SchemeGroupVersion.String(), Kind: "JoinConfiguration"}
		body, err := yaml.Marshal(given)
		if err != nil {
			return err
		}
		text = body
	}
	// kubeadm takes the machine's host name if it is told none; this process' own would be wrong.
	named, err := withName(text, m.boot.Name)
	if err != nil {
		return err
	}
	m.config, err = kubeadmconfig.BytesToJoinConfiguration(named, options)
	if err != nil {
		return err
	}
	if m.config.Timeouts != nil {
		m.config.Timeouts.Discovery = &metav1.Duration{Duration: m.discovery}
	}
	return nil
}

// withName puts the host name where the configuration has none.
func withName(text []byte, name string) ([]byte, error) {
	var documents []string
	for _, document := range strings.Split("\n"+string(text), "\n---") {
		fields := map[string]any{}
		if err := yaml.Unmarshal([]byte(document), &fields); err != nil {
			return nil, err
		}
		if fields["kind"] == "JoinConfiguration" {
			registration, _ := fields["nodeRegistration"].(map[string]any)
			if registration == nil {
				registration = map[string]any{}
			}
			if registration["name"] == nil || registration["name"] == "" {
				registration["name"] = name
			}
			fields["nodeRegistration"] = registration
			body, err := yaml.Marshal(fields)
			if err != nil {
				return nil, err
			}
			document = string(body)
		}
		documents = append(documents, document)
	}
	return []byte(strings.Join(documents, "\n---\n")), nil
}

// kubeletFlags are the kubelet's: of the packages' environment files, then those that kubeadm writes.
func (m *machine) kubeletFlags() map[string]string {
	flags := map[string]string{}
	for _, path := range []string{"/etc/default/kubelet", "/etc/sysconfig/kubelet"} {
		body, _ := os.ReadFile(filepath.Join(m.root, path))
		for _, line := range strings.Split(string(body), "\n") {
			value, found := strings.CutPrefix(strings.TrimSpace(line), "KUBELET_EXTRA_ARGS=")
			if !found {
				continue
			}
			for _, word := range strings.Fields(strings.Trim(value, `"'`)) {
				name, value, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
				flags[name] = value
			}
		}
	}
	for _, argument := range m.config.NodeRegistration.KubeletExtraArgs {
		flags[argument.Name] = argument.Value
	}
	return flags
}

// register makes the Node with the machine's own certificate, so that admission looks at it as at a kubelet's.
// A Node of this name that exists is taken over, as a kubelet does: that is how a name given twice shows.
func (m *machine) register(ctx context.Context, client kubernetes.Interface) error {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: m.boot.Name, Annotations: map[string]string{volumeutil.ControllerManagedAttachAnnotation: "true"},
			Labels: map[string]string{
				corev1.LabelHostname: m.boot.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Spec: corev1.NodeSpec{ProviderID: m.flags["provider-id"], Taints: m.config.NodeRegistration.Taints},
	}
	for _, pair := range strings.Split(m.flags["node-labels"], ",") {
		if key, value, found := strings.Cut(pair, "="); found {
			node.Labels[key] = value
		}
	}
	taints, err := taintsOf(m.flags["register-with-taints"])
	if err != nil {
		return err
	}
	node.Spec.Taints = append(node.Spec.Taints, taints...)
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return patchNodeStatus(ctx, client, m.boot.Name, m.status())
}

// taintsOf reads `key=value:effect,key:effect`.
func taintsOf(text string) ([]corev1.Taint, error) {
	var taints []corev1.Taint
	for _, one := range strings.Split(text, ",") {
		if one == "" {
			continue
		}
		left, effect, found := strings.Cut(one, ":")
		if !found {
			return nil, fmt.Errorf("`%s` is no taint", one)
		}
		key, value, _ := strings.Cut(left, "=")
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints, nil
}

// status is what a kubelet finds on such a VM.
func (m *machine) status() map[string]any {
	memory := m.vm.number("memory", 512)<<20 - ownMemory
	capacity := func(memory int64) corev1.ResourceList {
		return corev1.ResourceList{
			corev1.ResourceCPU:              *resource.NewQuantity(m.vm.number("cores", 1)*m.vm.number("sockets", 1), resource.DecimalSI),
			corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
			corev1.ResourceEphemeralStorage: *resource.NewQuantity(100<<30, resource.BinarySI),
			corev1.ResourcePods:             *resource.NewQuantity(110, resource.DecimalSI),
		}
	}
	addresses := []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: m.boot.Name}}
	if address := m.address(); address != "" {
		addresses = append([]corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}, addresses...)
	}
	now := metav1.Now()
	var conditions []corev1.NodeCondition
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		conditions = append(conditions, corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now})
	}
	return map[string]any{
		"capacity": capacity(memory), "allocatable": capacity(memory - reservedMemory), "addresses": addresses, "conditions": conditions,
		"nodeInfo": corev1.NodeSystemInfo{
			SystemUUID: m.vm.uuid(), KubeletVersion: m.kubeletVersion, ContainerRuntimeVersion: "containerd://2.2.4",
			OSImage: "Ubuntu 24.04.4 LTS", KernelVersion: "6.8.0", OperatingSystem: "linux", Architecture: "amd64"},
	}
}

// address is the kubelet's --node-ip, or the first static one of the network configuration or of ipconfigN.
func (m *machine) address() string {
	if address := m.flags["node-ip"]; address != "" {
		return address
	}
	for number := range 8 {
		for _, pair := range strings.Split(m.vm.option("ipconfig"+strconv.Itoa(number)), ",") {
			if value, found := strings.CutPrefix(pair, "ip="); found && value != "dhcp" {
				address, _, _ := strings.Cut(value, "/")
				return address
			}
		}
	}
	if m.network != nil {
		fields := map[string]any{}
		if yaml.Unmarshal([]byte(*m.network), &fields) == nil {
			return firstAddress(fields)
		}
	}
	return ""
}

// firstAddress finds `address: A/N` or `addresses: [A/N]` in a network configuration of version 1 or 2.
func firstAddress(value any) string {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range []string{"address", "addresses"} {
			switch found := value[key].(type) {
			case string:
				address, _, _ := strings.Cut(found, "/")
				return address
			case []any:
				if len(found) > 0 {
					address, _, _ := strings.Cut(fmt.Sprint(found[0]), "/")
					return address
				}
			}
		}
		for _, key := range []string{"network", "config", "subnets", "ethernets"} {
			if address := firstAddress(value[key]); address != "" {
				return address
			}
		}
		for _, inner := range value {
			if _, nested := inner.(map[string]any); nested {
				if address := firstAddress(inner); address != "" {
					return address
				}
			}
		}
	case []any:
		for _, inner := range value {
			if address := firstAddress(inner); address != "" {
				return address
			}
		}
	}
	return ""
}

// registerDriver makes the CSINode as the kubelet does when the driver registers: the count is read from the
// node's label now and never again.
func registerDriver(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	if node.Labels[corev1.LabelTopologyRegion] == "" || node.Labels[corev1.LabelTopologyZone] == "" {
		return errors.New("failed to get region or zone for node " + node.Name)
	}
	count := int32(defaultVolumes)
	if value, err := strconv.Atoi(node.Labels[maxVolumesLabel]); err == nil && value >= 0 && value <= 30 {
		count = int32(value)
	}
	csiNode := &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driver, NodeID: node.Name,
			TopologyKeys: []string{corev1.LabelTopologyRegion, corev1.LabelTopologyZone},
			Allocatable:  &storagev1.VolumeNodeResources{Count: &count}}}},
	}
	_, err := client.StorageV1().CSINodes().Create(ctx, csiNode, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		present, err := client.StorageV1().CSINodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		present.Spec = csiNode.Spec
		_, err = client.StorageV1().CSINodes().Update(ctx, present, metav1.UpdateOptions{})
		return err
	}
	return err
}
