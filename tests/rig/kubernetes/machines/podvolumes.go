package main

import (
	"context"
	"sort"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	nodeutil "k8s.io/component-helpers/node/util"
)

// podVolumes resolves the volumes of pods through claims to volumes that have to be attached.
type podVolumes struct {
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	drivers     storagelisters.CSIDriverLister
	attachments storagelisters.VolumeAttachmentLister
}

// attachable is one volume that a pod needs attached to its node.
type attachable struct {
	driver, handle, volumeName string
}

// uniqueName is the kubelet's name of a CSI volume, as it stands in volumesInUse and volumesAttached
// (GetUniqueVolumeNameFromSpec and the CSI plugin's GetVolumeName: driver^handle).
func (a attachable) uniqueName() corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + a.driver + "^" + a.handle)
}

// of lists a pod's attachable volumes. complete is false while a claim is not bound: the kubelet then
// waits and the pod stays in ContainerCreating.
func (p *podVolumes) of(pod *corev1.Pod) (list []attachable, complete bool) {
	complete = true
	for _, v := range pod.Spec.Volumes {
		claim := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			claim = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			// The claim of a generic ephemeral volume is named after pod and volume.
			claim = pod.Name + "-" + v.Name
		default:
			continue
		}
		pvc, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(claim)
		if err != nil || pvc.Spec.VolumeName == "" || pvc.Status.Phase != corev1.ClaimBound {
			complete = false
			continue
		}
		pv, err := p.volumes.Get(pvc.Spec.VolumeName)
		if err != nil {
			complete = false
			continue
		}
		if pv.Spec.CSI != nil && p.attaches(pv.Spec.CSI.Driver) {
			list = append(list, attachable{pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle, pv.Name})
		}
	}
	return list, complete
}

// attaches says whether a driver needs attachments. A driver without a CSIDriver object does.
func (p *podVolumes) attaches(driver string) bool {
	object, err := p.drivers.Get(driver)
	if err != nil || object.Spec.AttachRequired == nil {
		return true
	}
	return *object.Spec.AttachRequired
}

// attached says whether a volume's VolumeAttachment for the node reports success.
func (p *podVolumes) attached(node string, volume attachable) bool {
	list, err := p.attachments.List(everything)
	if err != nil {
		return false
	}
	for _, va := range list {
		if va.Spec.NodeName == node && va.Spec.Attacher == volume.driver && va.DeletionTimestamp == nil &&
			va.Spec.Source.PersistentVolumeName != nil && *va.Spec.Source.PersistentVolumeName == volume.volumeName {
			return va.Status.Attached
		}
	}
	return false
}

// syncInUse writes node.status.volumesInUse: every attachable volume of the node's pods from the moment it
// is desired until the pod has ended. The attach/detach controller detaches nothing that stands there.
func syncInUse(ctx context.Context, client kubernetes.Interface, node *corev1.Node, pods []*corev1.Pod, volumes *podVolumes) error {
	desired := map[corev1.UniqueVolumeName]bool{}
	for _, pod := range pods {
		if finished(pod) {
			continue
		}
		list, _ := volumes.of(pod)
		for _, v := range list {
			desired[v.uniqueName()] = true
		}
	}
	names := make([]corev1.UniqueVolumeName, 0, len(desired))
	for name := range desired {
		names = append(names, name)
	}
	sort.Slice(names, func(a, b int) bool { return names[a] < names[b] })
	same := len(names) == len(node.Status.VolumesInUse)
	for _, name := range node.Status.VolumesInUse {
		same = same && desired[name]
	}
	if same {
		return nil
	}
	next := node.DeepCopy()
	next.Status.VolumesInUse = names
	_, _, err := nodeutil.PatchNodeStatus(client.CoreV1(), types.NodeName(node.Name), node, next)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
