package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/util/workqueue"
)

const (
	// attachFinalizer is what GetFinalizerName of the external-attacher makes of the driver's name:
	// every character outside [a-zA-Z0-9-] becomes a dash.
	attachFinalizer = "external-attacher/csi-proxmox-sinextra-dev"
	// nodeIDOnAttachment is the external-attacher's vaNodeIDAnnotation: the node ID to detach from when
	// the CSINode is gone.
	nodeIDOnAttachment = "csi.alpha.kubernetes.io/node-id"
	// modeAnnotation on a Node chooses how the attacher fails there: a comma list of the modes below.
	modeAnnotation = "rig.capplan.test/attacher"
	// modeGhost drops the attachment but leaves the disk in the machine's configuration.
	modeGhost = "ghost"
	// modeSilent reports a volume as attached although Proxmox VE did not plug it.
	modeSilent = "silent-hotplug"
	// modeStuck does nothing at all.
	modeStuck = "stuck"
	// retryStart is the external-attacher's retry-interval-start; its retry-interval-max is 5 min.
	retryStart = time.Second
	// settleTime and settleInterval are TaskTimeout and TaskStatusCheckInterval of the plugin.
	settleTime     = 30 * time.Second
	settleInterval = 5 * time.Second
	// codeInternal is gRPC's code of every error that attachVolume and detachVolume return.
	codeInternal int32 = 13
)

// attacher plays the external-attacher and the plugin's controller behind it.
type attacher struct {
	client      kubernetes.Interface
	pve         *pveClient
	attachments storagelisters.VolumeAttachmentLister
	nodes       corelisters.NodeLister
	csiNodes    storagelisters.CSINodeLister
	volumes     corelisters.PersistentVolumeLister
	// forgetGone leaves the disk behind when the Node object is gone and the node ID holds no VMID, which
	// is what the plugin does; otherwise the machine is looked up by name.
	forgetGone bool
	// poison makes the next change of a machine's configuration a task that fails with the given text.
	poison func(ctx context.Context, machine *vm, failure string) error
	queue  workqueue.TypedRateLimitingInterface[string]

	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

func newAttacher(client kubernetes.Interface, pve *pveClient, retryMax time.Duration) *attacher {
	return &attacher{
		client: client, pve: pve, locks: map[string]*sync.Mutex{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryStart, retryMax)),
	}
}

// run serves the queue with the external-attacher's number of workers (worker-threads, 10).
func (a *attacher) run(ctx context.Context) {
	for range 10 {
		go work(ctx, a.queue, a.sync)
	}
	<-ctx.Done()
	a.queue.ShutDown()
}

// lock is the plugin's vmLocks: one change per node at a time.
func (a *attacher) lock(node string) func() {
	a.mu.Lock()
	held := a.locks[node]
	if held == nil {
		held = &sync.Mutex{}
		a.locks[node] = held
	}
	a.mu.Unlock()
	held.Lock()
	return held.Unlock
}

func (a *attacher) sync(ctx context.Context, name string) (time.Duration, error) {
	if cached, err := a.attachments.Get(name); err != nil || cached.Spec.Attacher != driverName {
		return 0, nil
	}
	// The informer may not have seen this program's own last write; a volume is not to be plugged twice.
	va, err := a.client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	modes := a.modes(va.Spec.NodeName)
	if modes[modeStuck] {
		return 2 * time.Second, nil
	}
	if va.DeletionTimestamp != nil {
		if !slices.Contains(va.Finalizers, attachFinalizer) {
			return 0, nil
		}
		return 0, a.syncDetach(ctx, va, modes)
	}
	if va.Status.Attached {
		return 0, nil
	}
	return 0, a.syncAttach(ctx, va, modes)
}

func (a *attacher) modes(node string) map[string]bool {
	modes := map[string]bool{}
	if object, err := a.nodes.Get(node); err == nil {
		for _, mode := range strings.Split(object.Annotations[modeAnnotation], ",") {
			modes[strings.TrimSpace(mode)] = true
		}
	}
	return modes
}

// source finds the volume of an attachment.
func (a *attacher) source(va *storagev1.VolumeAttachment) (*corev1.PersistentVolume, volume, error) {
	if va.Spec.Source.PersistentVolumeName == nil {
		return nil, volume{}, errors.New("neither InlineCSIVolumeSource nor PersistentVolumeName specified in VA source")
	}
	pv, err := a.volumes.Get(*va.Spec.Source.PersistentVolumeName)
	if err != nil {
		return nil, volume{}, err
	}
	if pv.Spec.CSI == nil {
		return nil, volume{}, errors.New("PersistentVolume is not a CSI volume")
	}
	parsed, err := parseVolume(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		err = fmt.Errorf("rpc error: code = InvalidArgument desc = %w", err)
	}
	return pv, parsed, err
}

// nodeID is the driver's name of the node: from the CSINode, or for a detach from the attachment itself.
func (a *attacher) nodeID(va *storagev1.VolumeAttachment, detach bool) (string, error) {
	object, err := a.csiNodes.Get(va.Spec.NodeName)
	if err == nil {
		for _, driver := range object.Spec.Drivers {
			if driver.Name == driverName {
				return driver.NodeID, nil
			}
		}
		err = fmt.Errorf("CSINode %s does not contain driver %s", va.Spec.NodeName, driverName)
	}
	if detach {
		if id := va.Annotations[nodeIDOnAttachment]; id != "" {
			return id, nil
		}
		// An attachment that another attacher made and that carries no annotation: by the node's name.
		return va.Spec.NodeName, nil
	}
	return "", err
}

// find is the plugin's way from a node ID to a machine: the VMID in the ID, else the providerID of the
// Node, else a machine with the node's name and UUID.
func (a *attacher) find(ctx context.Context, nodeID string) (*vm, error) {
	name, vmid, err := parseNodeID(nodeID)
	if err != nil {
		return nil, err
	}
	if vmid != 0 {
		return a.pve.findVM(ctx, vmid)
	}
	node, err := a.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		if a.forgetGone {
			return nil, errNoVM
		}
		return a.pve.findVMByName(ctx, name, "")
	}
	if err != nil {
		return nil, err
	}
	if vmid, ok := parseProviderID(node.Spec.ProviderID); ok {
		return a.pve.findVM(ctx, vmid)
	}
	return a.pve.findVMByName(ctx, name, node.Status.NodeInfo.SystemUUID)
}

func (a *attacher) syncAttach(ctx context.Context, va *storagev1.VolumeAttachment, modes map[string]bool) error {
	metadata, va, err := a.attach(ctx, va, modes)
	if err != nil {
		message := scrub(err.Error())
		code := codeInternal
		saveErr := a.patchStatus(ctx, va, func(status *storagev1.VolumeAttachmentStatus) {
			status.AttachError = &storagev1.VolumeError{Time: metav1.Now(), Message: message, ErrorCode: &code}
		})
		if saveErr != nil && !apierrors.IsNotFound(saveErr) {
			logf("attacher: %s: attach error not saved: %s", va.Name, scrub(saveErr.Error()))
		}
		return fmt.Errorf("attacher: %w", err)
	}
	return a.patchStatus(ctx, va, func(status *storagev1.VolumeAttachmentStatus) {
		status.Attached, status.AttachError, status.AttachmentMetadata = true, nil, metadata
	})
}

func (a *attacher) attach(ctx context.Context, va *storagev1.VolumeAttachment, modes map[string]bool) (map[string]string, *storagev1.VolumeAttachment, error) {
	pv, v, err := a.source(va)
	if err != nil {
		return nil, va, err
	}
	if pv.DeletionTimestamp != nil {
		return nil, va, fmt.Errorf("PersistentVolume %q is marked for deletion", pv.Name)
	}
	nodeID, err := a.nodeID(va, false)
	if err != nil {
		return nil, va, err
	}
	if va, err = a.claim(ctx, va, nodeID); err != nil {
		return nil, va, fmt.Errorf("could not save VolumeAttachment: %w", err)
	}
	unlock := a.lock(va.Spec.NodeName)
	defer unlock()
	slot, err := a.plug(ctx, nodeID, v, pv, modes[modeSilent])
	if err != nil {
		return nil, va, fmt.Errorf("rpc error: code = Internal desc = %w", err)
	}
	return map[string]string{"DevicePath": "/dev/disk/by-id/wwn-0x" + slotWWN(slot), "lun": fmt.Sprint(slot)}, va, nil
}

// claim adds the finalizer and the node ID before anything happens at Proxmox VE.
func (a *attacher) claim(ctx context.Context, va *storagev1.VolumeAttachment, nodeID string) (*storagev1.VolumeAttachment, error) {
	if slices.Contains(va.Finalizers, attachFinalizer) && va.Annotations[nodeIDOnAttachment] == nodeID {
		return va, nil
	}
	next := va.DeepCopy()
	if !slices.Contains(next.Finalizers, attachFinalizer) {
		next.Finalizers = append(next.Finalizers, attachFinalizer)
	}
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[nodeIDOnAttachment] = nodeID
	updated, err := a.client.StorageV1().VolumeAttachments().Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return va, err
	}
	return updated, nil
}

func (a *attacher) patchStatus(ctx context.Context, va *storagev1.VolumeAttachment, change func(*storagev1.VolumeAttachmentStatus)) error {
	next := va.DeepCopy()
	change(&next.Status)
	patch, err := mergePatch(va, next)
	if err != nil {
		return err
	}
	_, err = a.client.StorageV1().VolumeAttachments().Patch(ctx, va.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (a *attacher) syncDetach(ctx context.Context, va *storagev1.VolumeAttachment, modes map[string]bool) error {
	err := a.detach(ctx, va, modes)
	if err != nil {
		message := scrub(err.Error())
		saveErr := a.patchStatus(ctx, va, func(status *storagev1.VolumeAttachmentStatus) {
			status.DetachError = &storagev1.VolumeError{Time: metav1.Now(), Message: message}
		})
		if saveErr != nil && !apierrors.IsNotFound(saveErr) {
			logf("attacher: %s: detach error not saved: %s", va.Name, scrub(saveErr.Error()))
		}
		return fmt.Errorf("attacher: %w", err)
	}
	next := va.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == attachFinalizer })
	patch, err := mergePatch(va, next)
	if err != nil {
		return err
	}
	_, err = a.client.StorageV1().VolumeAttachments().Patch(ctx, va.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (a *attacher) detach(ctx context.Context, va *storagev1.VolumeAttachment, modes map[string]bool) error {
	_, v, err := a.source(va)
	if err != nil {
		return err
	}
	nodeID, err := a.nodeID(va, true)
	if err != nil {
		return err
	}
	unlock := a.lock(va.Spec.NodeName)
	defer unlock()
	if err := a.unplug(ctx, nodeID, v, modes[modeGhost]); err != nil {
		return fmt.Errorf("rpc error: code = Internal desc = %w", err)
	}
	return nil
}
