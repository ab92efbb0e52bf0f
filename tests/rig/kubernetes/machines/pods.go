package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// longestGrace is how long a pod takes to end at most; the rig does not wait for real applications.
	longestGrace = time.Second
	// jobTime is how long a pod of a Job runs.
	jobTime = time.Second
)

// pods runs what is bound to living nodes, as far as anybody can tell from outside.
type pods struct {
	*world
	started map[types.UID]time.Time
}

func newPods(w *world) *pods {
	return &pods{world: w, started: map[types.UID]time.Time{}}
}

func (p *pods) step(ctx context.Context) {
	all, _ := p.pods.List(labels.Everything())
	byNode := map[string][]*corev1.Pod{}
	for _, pod := range all {
		if pod.Spec.NodeName != "" && pod.Annotations[corev1.MirrorPodAnnotationKey] == "" {
			byNode[pod.Spec.NodeName] = append(byNode[pod.Spec.NodeName], pod)
		}
	}
	nodes, _ := p.nodes.List(labels.Everything())
	for _, node := range nodes {
		if !p.isAlive(node) {
			continue
		}
		p.reportVolumes(ctx, node, byNode[node.Name])
		for _, pod := range byNode[node.Name] {
			if err := p.sync(ctx, node, pod); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				klog.Warningf("pod %s/%s: %v", pod.Namespace, pod.Name, err)
			}
		}
	}
}

func isTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// volumesOf are the pod's volumes that the CSI driver attaches.
func (w *world) volumesOf(pod *corev1.Pod) (volumes []*corev1.PersistentVolume, complete bool) {
	for _, volume := range pod.Spec.Volumes {
		name := ""
		if volume.PersistentVolumeClaim != nil {
			name = volume.PersistentVolumeClaim.ClaimName
		} else if volume.Ephemeral != nil {
			name = pod.Name + "-" + volume.Name
		} else {
			continue
		}
		claim, err := w.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
		if err != nil || claim.Spec.VolumeName == "" {
			return volumes, false
		}
		pv, err := w.volumes.Get(claim.Spec.VolumeName)
		if err != nil {
			return volumes, false
		}
		if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == driver {
			volumes = append(volumes, pv)
		}
	}
	return volumes, true
}

func uniqueName(pv *corev1.PersistentVolume) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + driver + "^" + pv.Spec.CSI.VolumeHandle)
}

// reportVolumes writes volumesInUse: a kubelet lists a volume as soon as a pod of its node wants it, and
// until it is unmounted. The controller detaches nothing that is still listed there.
func (p *pods) reportVolumes(ctx context.Context, node *corev1.Node, pods []*corev1.Pod) {
	wanted := []corev1.UniqueVolumeName{}
	for _, pod := range pods {
		if isTerminal(pod) {
			continue
		}
		volumes, _ := p.volumesOf(pod)
		for _, pv := range volumes {
			wanted = append(wanted, uniqueName(pv))
		}
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	present := slices.Clone(node.Status.VolumesInUse)
	slices.Sort(present)
	if slices.Equal(wanted, present) {
		return
	}
	client, _ := p.clientOf(node.Name)
	if err := patchNodeStatus(ctx, client, node.Name, map[string]any{"volumesInUse": wanted}); err != nil {
		klog.Warningf("node %s: volumesInUse: %v", node.Name, err)
	}
}

// attached tells whether every volume is attached to the node.
func (p *pods) attached(node *corev1.Node, volumes []*corev1.PersistentVolume) bool {
	all, _ := p.attachments.List(labels.Everything())
	for _, pv := range volumes {
		if !slices.ContainsFunc(all, func(one *storageAttachment) bool {
			return one.Spec.NodeName == node.Name && one.Status.Attached && one.Spec.Source.PersistentVolumeName != nil &&
				*one.Spec.Source.PersistentVolumeName == pv.Name
		}) {
			return false
		}
	}
	return true
}

func (p *pods) sync(ctx context.Context, node *corev1.Node, pod *corev1.Pod) error {
	client, _ := p.clientOf(node.Name)
	api := client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		grace := longestGrace
		if seconds := pod.DeletionGracePeriodSeconds; seconds != nil {
			grace = min(grace, time.Duration(*seconds)*time.Second)
		}
		requested := pod.DeletionTimestamp.Add(-time.Duration(*orZero(pod.DeletionGracePeriodSeconds)) * time.Second)
		if time.Since(requested) < grace {
			return nil
		}
		now := int64(0)
		return api.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	}
	if isTerminal(pod) {
		return nil
	}
	if pod.Status.Phase == corev1.PodRunning {
		return p.finishJob(ctx, node, pod)
	}
	volumes, complete := p.volumesOf(pod)
	if !complete || !p.attached(node, volumes) {
		return p.report(ctx, node, pod, waiting(pod))
	}
	p.started[pod.UID] = time.Now()
	return p.report(ctx, node, pod, running(node, pod))
}

func orZero(value *int64) *int64 {
	if value == nil {
		return new(int64)
	}
	return value
}

func (p *pods) finishJob(ctx context.Context, node *corev1.Node, pod *corev1.Pod) error {
	owner := metav1.GetControllerOf(pod)
	began, ours := p.started[pod.UID]
	if owner == nil || owner.Kind != "Job" || !ours || pod.Annotations["rig.capplan.test/run-forever"] != "" || time.Since(began) < jobTime {
		return nil
	}
	status := running(node, pod)
	status["phase"] = corev1.PodSucceeded
	now := metav1.Now()
	var ended []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		ended = append(ended, corev1.ContainerStatus{Name: container.Name, Image: container.Image, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: metav1.NewTime(began), FinishedAt: now}}})
	}
	status["containerStatuses"] = ended
	return p.report(ctx, node, pod, status)
}

func (p *pods) report(ctx context.Context, node *corev1.Node, pod *corev1.Pod, status map[string]any) error {
	if status == nil {
		return nil
	}
	client, _ := p.clientOf(node.Name)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// conditions are those of a pod that is scheduled, and ready or not yet.
func conditions(pod *corev1.Pod, ready bool) []corev1.PodCondition {
	now, state := metav1.Now(), corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	out := []corev1.PodCondition{}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled || condition.Type == corev1.DisruptionTarget {
			out = append(out, condition)
		}
	}
	out = append(out, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now})
	for _, kind := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		out = append(out, corev1.PodCondition{Type: kind, Status: state, LastTransitionTime: now})
	}
	return out
}

// waiting is what a kubelet writes while volumes are not there; nothing if it is written already.
func waiting(pod *corev1.Pod) map[string]any {
	if len(pod.Status.ContainerStatuses) > 0 {
		return nil
	}
	var containers []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		containers = append(containers, corev1.ContainerStatus{Name: container.Name, Image: container.Image,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}})
	}
	return map[string]any{"phase": corev1.PodPending, "startTime": metav1.Now(), "conditions": conditions(pod, false), "containerStatuses": containers}
}

func running(node *corev1.Node, pod *corev1.Pod) map[string]any {
	now, yes := metav1.Now(), true
	var containers, inits []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		containers = append(containers, corev1.ContainerStatus{Name: container.Name, Image: container.Image, Ready: true, Started: &yes,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
	}
	for _, container := range pod.Spec.InitContainers {
		status := corev1.ContainerStatus{Name: container.Name, Image: container.Image, Ready: true}
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			status.Started, status.State.Running = &yes, &corev1.ContainerStateRunning{StartedAt: now}
		} else {
			status.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}
		}
		inits = append(inits, status)
	}
	address := podAddress(pod)
	status := map[string]any{"phase": corev1.PodRunning, "conditions": conditions(pod, true), "containerStatuses": containers,
		"podIP": address, "podIPs": []corev1.PodIP{{IP: address}}}
	if len(inits) > 0 {
		status["initContainerStatuses"] = inits
	}
	if pod.Status.StartTime == nil {
		status["startTime"] = now
	}
	for _, one := range node.Status.Addresses {
		if one.Type == corev1.NodeInternalIP {
			status["hostIP"], status["hostIPs"] = one.Address, []corev1.HostIP{{IP: one.Address}}
			break
		}
	}
	return status
}

// podAddress is an address of 10.244.0.0/16 (flannel's and kubeadm's example) that follows from the UID.
func podAddress(pod *corev1.Pod) string {
	hash := fnv.New32()
	_, _ = hash.Write([]byte(pod.UID))
	sum := hash.Sum32()
	return fmt.Sprintf("10.244.%d.%d", byte(sum>>8), 1+byte(sum)%254)
}
