package main

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/apimachinery/lease"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/utils/clock"
)

const (
	// statusReportFrequency is the kubelet's nodeStatusReportFrequency: how often it writes an unchanged
	// status (KubeletConfiguration defaults, pkg/kubelet/apis/config/v1beta1/defaults.go).
	statusReportFrequency = 5 * time.Minute
	// leaseFraction is the kubelet's nodeLeaseRenewIntervalFraction: a lease of 40 s is renewed each 10 s.
	leaseFraction = 4
	// managedAttachAnnotation is the kubelet's: without it the attach/detach controller of the
	// controller-manager leaves the node alone (pkg/volume/util.ControllerManagedAttachAnnotation).
	managedAttachAnnotation = "volumes.kubernetes.io/controller-managed-attach-detach"
)

// live is what the kubelet does all day, until ctx ends: the lease by client-go's own controller, the
// status when something changed or every five minutes.
func (k *keeper) live(ctx context.Context, id identity, node *corev1.Node) {
	holder := lease.NewController(clock.RealClock{}, id.client, id.name, int32(k.lease.Seconds()*leaseFraction), nil,
		k.lease, id.name, corev1.NamespaceNodeLease, ownedByNode(ctx, id))
	go holder.Run(ctx)
	if k.driver != nil && !id.driverDone.Load() {
		go k.driver.register(ctx, id)
	}
	if id.machine != nil && !sleep(ctx, k.readyDelay) {
		return
	}
	var reported time.Time
	for {
		current, err := k.nodes.Get(id.name)
		if err == nil && (time.Since(reported) > statusReportFrequency || !isReady(current)) {
			if err := k.report(ctx, id, current); err != nil {
				if ctx.Err() == nil {
					logf("nodes: %s: status not written: %s", id.name, scrub(err.Error()))
				}
			} else {
				if reported.IsZero() && id.machine != nil {
					id.machine.readied()
				}
				reported = time.Now()
			}
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// ownedByNode sets the lease's owner as the kubelet does (pkg/kubelet/util.SetNodeOwnerFunc), so that the
// garbage collector removes the lease with the Node.
func ownedByNode(ctx context.Context, id identity) lease.ProcessLeaseFunc {
	return func(held *coordinationv1.Lease) error {
		if len(held.OwnerReferences) > 0 {
			return nil
		}
		node, err := id.client.CoreV1().Nodes().Get(ctx, id.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		held.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: id.name, UID: node.UID}}
		return nil
	}
}

// report writes the conditions of a healthy kubelet and, for a joined machine, its own status.
func (k *keeper) report(ctx context.Context, id identity, current *corev1.Node) error {
	if current.Annotations[managedAttachAnnotation] != "true" {
		patch := []byte(`{"metadata":{"annotations":{"` + managedAttachAnnotation + `":"true"}}}`)
		updated, err := id.client.CoreV1().Nodes().Patch(ctx, id.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return err
		}
		current = updated
	}
	wasReady := isReady(current)
	next := current.DeepCopy()
	if id.machine != nil {
		id.machine.fillStatus(&next.Status)
	}
	now := metav1.Now()
	setCondition(&next.Status, corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", now)
	setCondition(&next.Status, corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", now)
	setCondition(&next.Status, corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available", now)
	setCondition(&next.Status, corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status", now)
	if _, _, err := nodeutil.PatchNodeStatus(id.client.CoreV1(), types.NodeName(id.name), current, next); err != nil {
		return err
	}
	if !wasReady {
		logf("nodes: %s reports Ready", id.name)
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// setCondition replaces a condition, keeping the time of its last transition when the status stays.
func setCondition(status *corev1.NodeStatus, kind corev1.NodeConditionType, value corev1.ConditionStatus, reason, message string, now metav1.Time) {
	condition := corev1.NodeCondition{
		Type: kind, Status: value, Reason: reason, Message: message,
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	for i, old := range status.Conditions {
		if old.Type != kind {
			continue
		}
		if old.Status == value {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		status.Conditions[i] = condition
		return
	}
	status.Conditions = append(status.Conditions, condition)
}

// sleep waits and answers false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
