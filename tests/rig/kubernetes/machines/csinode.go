package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// maxAttachmentsLabel is the plugin's NodeLabelMaxVolumeAttachments.
	maxAttachmentsLabel = driverName + "/max-volume-attachments"
	// defaultAttachments is its DefaultMaxVolumesPerNode, attachmentsLimit its VolumesPerNodeHardLimit.
	defaultAttachments = 24
	attachmentsLimit   = 30
	// regionLabel and nodeLabel of the Proxmox cloud controller come before the well-known topology labels.
	regionLabel = "topology.proxmox.sinextra.dev/region"
	nodeLabel   = "topology.proxmox.sinextra.dev/node"
	// nodeIDAnnotation is where the kubelet notes the driver's name for the node
	// (annotationKeyNodeID in pkg/volume/csi/nodeinfomanager).
	nodeIDAnnotation = "csi.volume.kubernetes.io/nodeid"
	// driverRestart is the pause of a container that crashes again and again, at its shortest: the
	// kubelet's back-off begins with 10 s. It stays there, for the impatience of tests.
	driverRestart = 10 * time.Second
)

// driverRegistrar plays the node plugin's registration with the kubelet.
type driverRegistrar struct {
	// delay is the time from the node's registration until the node plugin's pod has come up.
	delay time.Duration
}

// attachmentCount is what NodeGetInfo answers as MaxVolumesPerNode.
func attachmentCount(labels map[string]string) int32 {
	count, err := strconv.ParseInt(labels[maxAttachmentsLabel], 10, 64)
	if err != nil || count < 0 || count > attachmentsLimit {
		return defaultAttachments
	}
	return int32(count)
}

// nodeTopology is GetNodeTopology of the plugin.
func nodeTopology(labels map[string]string) (region, zone string) {
	if region = labels[regionLabel]; region == "" {
		region = labels[corev1.LabelTopologyRegion]
	}
	if zone = labels[nodeLabel]; zone == "" {
		zone = labels[corev1.LabelTopologyZone]
	}
	return region, zone
}

// driverEntry is the entry that the kubelet writes for the driver. A count of 0 is written as no limit at
// all, which is what the kubelet's installDriverToCSINode makes of it.
func driverEntry(node *corev1.Node) (storagev1.CSINodeDriver, error) {
	region, zone := nodeTopology(node.Labels)
	if region == "" || zone == "" {
		return storagev1.CSINodeDriver{}, fmt.Errorf("failed to get region or zone for node %s", node.Name)
	}
	keys := []string{corev1.LabelTopologyRegion, corev1.LabelTopologyZone}
	sort.Strings(keys)
	entry := storagev1.CSINodeDriver{Name: driverName, NodeID: node.Name, TopologyKeys: keys}
	if count := attachmentCount(node.Labels); count > 0 {
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	return entry, nil
}

// register creates the node's CSINode as the kubelet does when it starts and adds the driver once the
// plugin answers. An adopted node that has a CSINode keeps it as it is. The label is read once: a driver
// that is registered is not asked again until the machine or its pod starts anew.
func (d *driverRegistrar) register(ctx context.Context, id identity) {
	adopted := id.vmid == 0
	created, err := d.ensure(ctx, id)
	for err != nil {
		if !sleep(ctx, 2*time.Second) {
			return
		}
		created, err = d.ensure(ctx, id)
	}
	if adopted && !created {
		id.driverDone.Store(true)
		return
	}
	if !sleep(ctx, d.delay) {
		return
	}
	said := false
	for {
		err := d.install(ctx, id)
		if err == nil {
			id.driverDone.Store(true)
			d.again(ctx, id)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			logf("csi: %s: the node plugin does not register and starts over: %s", id.name, scrub(err.Error()))
			said = true
		}
		if !sleep(ctx, min(driverRestart, max(d.delay, time.Second))) {
			return
		}
	}
}

// pluginImage is part of the image's name of the pod that registers the driver.
const pluginImage = "proxmox-csi-node"

// again registers the driver anew whenever the pod of the node plugin is another one: the kubelet asks a plugin
// that registers for its limits.
func (d *driverRegistrar) again(ctx context.Context, id identity) {
	known := ""
	for sleep(ctx, 500*time.Millisecond) {
		pods, err := id.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + id.name})
		if err != nil {
			continue
		}
		for _, pod := range pods.Items {
			if len(pod.Spec.Containers) == 0 || !strings.Contains(pod.Spec.Containers[0].Image, pluginImage) || pod.DeletionTimestamp != nil {
				continue
			}
			if known != "" && known != string(pod.UID) && d.install(ctx, id) != nil {
				continue
			}
			known = string(pod.UID)
		}
	}
}

// ensure creates the node's CSINode without drivers when it is missing.
func (d *driverRegistrar) ensure(ctx context.Context, id identity) (created bool, err error) {
	_, err = id.client.StorageV1().CSINodes().Get(ctx, id.name, metav1.GetOptions{})
	if err == nil || !apierrors.IsNotFound(err) {
		return false, err
	}
	node, err := id.client.CoreV1().Nodes().Get(ctx, id.name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	_, err = id.client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{
			Name:            id.name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{}},
	}, metav1.CreateOptions{})
	return err == nil, err
}

// install asks the node plugin (its labels, read from the API) and writes the answer.
func (d *driverRegistrar) install(ctx context.Context, id identity) error {
	node, err := id.client.CoreV1().Nodes().Get(ctx, id.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	entry, err := driverEntry(node)
	if err != nil {
		return err
	}
	if err := annotateNodeID(ctx, id.client, node, entry.NodeID); err != nil {
		return err
	}
	object, err := id.client.StorageV1().CSINodes().Get(ctx, id.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	next := object.DeepCopy()
	next.Spec.Drivers = nil
	for _, driver := range object.Spec.Drivers {
		if driver.Name != driverName {
			next.Spec.Drivers = append(next.Spec.Drivers, driver)
		}
	}
	next.Spec.Drivers = append(next.Spec.Drivers, entry)
	if _, err := id.client.StorageV1().CSINodes().Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if entry.Allocatable != nil {
		logf("csi: %s: driver registered with %d attachments", id.name, *entry.Allocatable.Count)
	} else {
		logf("csi: %s: driver registered without a limit", id.name)
	}
	return nil
}

// annotateNodeID notes the driver's node ID on the Node.
func annotateNodeID(ctx context.Context, client kubernetes.Interface, node *corev1.Node, id string) error {
	ids := map[string]string{}
	if old := node.Annotations[nodeIDAnnotation]; old != "" {
		_ = json.Unmarshal([]byte(old), &ids)
	}
	if ids[driverName] == id {
		return nil
	}
	ids[driverName] = id
	value, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{nodeIDAnnotation: string(value)}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
