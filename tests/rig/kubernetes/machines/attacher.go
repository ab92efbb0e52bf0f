package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// finalizer is external-attacher's for this driver: dots become dashes (GetFinalizerName).
	finalizer = "external-attacher/csi-proxmox-sinextra-dev"
	// highestLun is the last that proxmox-csi tries: `for lun = 1; lun < 30; lun++` (attachVolume, v0.19.1).
	highestLun = 29
	// attacherAnnotation asks for a failure on a node: ghost, silent-hotplug, stuck; several with commas.
	attacherAnnotation = "rig.capplan.test/attacher"
	// longestRetry is how long the attacher waits between two tries at most (the real one: 5 min).
	longestRetry = 5 * time.Second
)

type storageAttachment = storagev1.VolumeAttachment

// errNoLun is the plugin's own text.
var errNoLun = errors.New("no free lun found")

// attacher plays external-attacher and the controller of proxmox-csi: every VolumeAttachment becomes a
// scsiN of the VM's configuration, by the plugin's rules and through its requests.
type attacher struct {
	*world
	mutex sync.Mutex
	// busy has the attachments under work, or when they may be tried again.
	busy map[string]time.Time
	// tries counts the failures in a row.
	tries map[string]int
	// nodes are locked one operation at a time, as the plugin's vmLocks do.
	locks map[string]*sync.Mutex
}

func newAttacher(w *world) *attacher {
	return &attacher{world: w, busy: map[string]time.Time{}, tries: map[string]int{}, locks: map[string]*sync.Mutex{}}
}

func (a *attacher) step(ctx context.Context) {
	all, _ := a.attachments.List(labels.Everything())
	for _, one := range all {
		if one.Spec.Attacher != driver || one.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		detach := one.DeletionTimestamp != nil
		isDone := one.Status.Attached
		if detach {
			isDone = !slices.Contains(one.Finalizers, finalizer)
		}
		if isDone {
			continue
		}
		if a.take(one) {
			go a.work(ctx, one.DeepCopy(), detach)
		}
	}
}

// take claims an attachment unless it is under work or is to wait after a failure.
func (a *attacher) take(one *storageAttachment) bool {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if until, found := a.busy[string(one.UID)]; found && time.Now().Before(until) {
		return false
	}
	a.busy[string(one.UID)] = time.Now().Add(time.Hour)
	return true
}

func (a *attacher) lock(node string) *sync.Mutex {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.locks[node] == nil {
		a.locks[node] = &sync.Mutex{}
	}
	return a.locks[node]
}

func (a *attacher) work(ctx context.Context, one *storageAttachment, detach bool) {
	lock := a.lock(one.Spec.NodeName)
	lock.Lock()
	var err error
	if detach {
		err = a.detach(ctx, one)
	} else {
		err = a.attach(ctx, one)
	}
	lock.Unlock()
	a.mutex.Lock()
	defer a.mutex.Unlock()
	id := string(one.UID)
	if err == nil {
		// A moment for the informer to show what was written.
		a.busy[id] = time.Now().Add(5 * tick)
		delete(a.tries, id)
		return
	}
	a.tries[id]++
	a.busy[id] = time.Now().Add(min(longestRetry, time.Duration(1<<min(a.tries[id], 10))*200*time.Millisecond))
	if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		klog.Warningf("attachment %s on %s: %v", one.Name, one.Spec.NodeName, err)
	}
}

// fails tells whether a test asked for this failure on the node.
func (a *attacher) fails(node *corev1.Node, mode string) bool {
	return node != nil && slices.Contains(strings.Split(node.Annotations[attacherAnnotation], ","), mode)
}

// place finds the VM and the volume's `storage:disk`. The node may be gone already when a volume is detached.
func (a *attacher) place(one *storageAttachment) (*corev1.Node, *guest, string, error) {
	node, err := a.nodes.Get(one.Spec.NodeName)
	if err != nil {
		node = nil
	}
	named := node
	if named == nil {
		named = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: one.Spec.NodeName}}
	}
	vm := a.guestOf(named)
	pv, err := a.volumes.Get(*one.Spec.Source.PersistentVolumeName)
	if err != nil {
		return node, vm, "", err
	}
	disk, err := diskOf(pv)
	return node, vm, disk, err
}

// diskOf turns the handle `region/zone/storage/disk` into what a VM configuration names.
func diskOf(pv *corev1.PersistentVolume) (string, error) {
	if pv.Spec.CSI == nil {
		return "", fmt.Errorf("%s is no CSI volume", pv.Name)
	}
	parts := strings.SplitN(pv.Spec.CSI.VolumeHandle, "/", 4)
	if len(parts) != 4 {
		return "", fmt.Errorf("%s has no handle of proxmox-csi", pv.Name)
	}
	return parts[2] + ":" + parts[3], nil
}

// lunOf is the slot that has the disk, and the lowest free one; zero for none.
func lunOf(config map[string]any, disk string) (present, free int) {
	for lun := 1; lun <= highestLun; lun++ {
		value, found := config[fmt.Sprintf("scsi%d", lun)].(string)
		volume, _, _ := strings.Cut(value, ",")
		switch {
		case found && volume == disk:
			return lun, free
		case !found && free == 0:
			free = lun
		}
	}
	return 0, free
}

func (a *attacher) attach(ctx context.Context, one *storageAttachment) error {
	if !slices.Contains(one.Finalizers, finalizer) {
		if err := a.patch(ctx, one, map[string]any{"metadata": map[string]any{"finalizers": append(one.Finalizers, finalizer)}}); err != nil {
			return err
		}
	}
	node, vm, disk, err := a.place(one)
	if err != nil {
		return a.failed(ctx, one, "attachError", err)
	}
	if a.fails(node, "stuck") {
		return errors.New("stuck, as asked")
	}
	if node == nil || vm == nil {
		return a.failed(ctx, one, "attachError", fmt.Errorf("failed to find VM of node %s", one.Spec.NodeName))
	}
	config, err := a.pve.config(ctx, vm)
	if err != nil {
		return a.failed(ctx, one, "attachError", fmt.Errorf("failed to get vm config: %v", err))
	}
	present, free := lunOf(config, disk)
	if present == 0 && free == 0 {
		return a.failed(ctx, one, "attachError", errNoLun)
	}
	lun := present
	if present == 0 {
		lun = free
		change := url.Values{}
		change.Set(fmt.Sprintf("scsi%d", lun), fmt.Sprintf("%s,backup=0,iothread=1,wwn=0x%x", disk, fmt.Sprintf("PVC-ID%02d", lun)))
		if a.fails(node, "silent-hotplug") {
			// QEMU kept the throttle group of an earlier disk: the task fails, the plugin believes that it worked.
			if err := a.poison(ctx, vm, lun); err != nil {
				return err
			}
			klog.Infof("attachment %s: silent hot-plug failure, as asked: %v", one.Name, a.pve.change(ctx, vm, change))
		} else if err := a.pve.change(ctx, vm, change); err != nil {
			return a.failed(ctx, one, "attachError", fmt.Errorf("unable to attach virtual machine disk: %v", err))
		}
	}
	klog.Infof("attachment %s: %s is scsi%d of %d", one.Name, disk, lun, vm.VMID)
	device := fmt.Sprintf("/dev/disk/by-id/wwn-0x%x", fmt.Sprintf("PVC-ID%02d", lun))
	return a.patchStatus(ctx, one, map[string]any{"attached": true, "attachError": nil,
		"attachmentMetadata": map[string]string{"DevicePath": device, "lun": fmt.Sprint(lun)}})
}

// poison makes the next change of the VM's configuration a task that fails.
func (a *attacher) poison(ctx context.Context, vm *guest, lun int) error {
	text := fmt.Sprintf("hotplug problem - adding drive failed: attempt to add duplicate property 'throttle-drive-scsi%d' to object", lun)
	rule, err := json.Marshal(map[string]any{"method": http.MethodPost, "path": vm.path() + "/config", "task": text, "times": 1})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.control+"/fail", bytes.NewReader(rule))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (a *attacher) detach(ctx context.Context, one *storageAttachment) error {
	node, vm, disk, err := a.place(one)
	if a.fails(node, "stuck") {
		return errors.New("stuck, as asked")
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return a.failed(ctx, one, "detachError", err)
	}
	if vm != nil && disk != "" && !a.fails(node, "ghost") {
		config, err := a.pve.config(ctx, vm)
		if err != nil {
			return a.failed(ctx, one, "detachError", fmt.Errorf("failed to get vm config: %v", err))
		}
		if lun, _ := lunOf(config, disk); lun != 0 {
			unlink := url.Values{"idlist": {fmt.Sprintf("scsi%d", lun)}}
			if err := a.pve.call(ctx, http.MethodPut, vm.path()+"/unlink", unlink, nil); err != nil {
				return a.failed(ctx, one, "detachError", fmt.Errorf("failed to unlink disk: %v", err))
			}
			klog.Infof("attachment %s: %s was scsi%d of %d", one.Name, disk, lun, vm.VMID)
		}
	}
	kept := slices.DeleteFunc(slices.Clone(one.Finalizers), func(name string) bool { return name == finalizer })
	return a.patch(ctx, one, map[string]any{"metadata": map[string]any{"finalizers": kept}})
}

// failed writes the error where external-attacher does, and answers it, so that it is tried again.
func (a *attacher) failed(ctx context.Context, one *storageAttachment, field string, err error) error {
	message := "rpc error: code = Internal desc = " + err.Error()
	status := map[string]any{field: map[string]any{"message": message, "time": metav1.Now()}}
	if field == "attachError" {
		status["attached"] = false
	}
	if written := a.patchStatus(ctx, one, status); written != nil {
		return written
	}
	return err
}

func (a *attacher) patchStatus(ctx context.Context, one *storageAttachment, status map[string]any) error {
	return a.patch(ctx, one, map[string]any{"status": status}, "status")
}

func (a *attacher) patch(ctx context.Context, one *storageAttachment, change map[string]any, subresources ...string) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = a.kube.StorageV1().VolumeAttachments().Patch(ctx, one.Name, types.MergePatchType, body, metav1.PatchOptions{}, subresources...)
	return err
}
