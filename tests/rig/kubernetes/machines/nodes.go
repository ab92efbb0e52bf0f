package main

import (
	"context"
	"encoding/json"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// statusPeriod is how often a kubelet writes an unchanged status.
//
// Source: nodeStatusReportFrequency, 5 min, in pkg/kubelet/apis/config/v1beta1/defaults.go.
const statusPeriod = 5 * time.Minute

// heart keeps nodes Ready: a Lease every few seconds, a status when it changes.
type heart struct {
	*world
	renewed  map[string]time.Time
	reported map[string]time.Time
}

func newHeart(w *world) *heart {
	return &heart{world: w, renewed: map[string]time.Time{}, reported: map[string]time.Time{}}
}

func (h *heart) beat(ctx context.Context) {
	nodes, _ := h.nodes.List(labels.Everything())
	for _, node := range nodes {
		if !h.isAlive(node) {
			continue
		}
		client, _ := h.clientOf(node.Name)
		if time.Since(h.renewed[node.Name]) >= time.Duration(h.leaseSeconds)*time.Second {
			if err := renewLease(ctx, client, node, int32(4*h.leaseSeconds)); err != nil {
				klog.Warningf("node %s: lease: %v", node.Name, err)
				continue
			}
			h.renewed[node.Name] = time.Now()
		}
		if isReady(node) && time.Since(h.reported[node.Name]) < statusPeriod {
			continue
		}
		if err := reportReady(ctx, client, node); err != nil {
			klog.Warningf("node %s: status: %v", node.Name, err)
			continue
		}
		h.reported[node.Name] = time.Now()
	}
}

func isReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// renewLease does what k8s.io/component-helpers/apimachinery/lease does: get, create or update.
func renewLease(ctx context.Context, client kubernetes.Interface, node *corev1.Node, seconds int32) error {
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, Namespace: corev1.NamespaceNodeLease, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// reportReady writes the conditions as a kubelet does whose node is well.
func reportReady(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	now := metav1.Now()
	conditions := make([]corev1.NodeCondition, 0, len(node.Status.Conditions)+1)
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
		Message: "kubelet is posting ready status", LastHeartbeatTime: now, LastTransitionTime: now}
	for _, condition := range node.Status.Conditions {
		switch {
		case condition.Type == corev1.NodeReady:
			if condition.Status == corev1.ConditionTrue {
				ready.LastTransitionTime = condition.LastTransitionTime
			}
			continue
		case condition.Status == corev1.ConditionUnknown:
			// Written by the node controller while the node was silent.
			condition.Status, condition.LastTransitionTime = corev1.ConditionFalse, now
		}
		condition.LastHeartbeatTime = now
		conditions = append(conditions, condition)
	}
	return patchNodeStatus(ctx, client, node.Name, map[string]any{"conditions": append(conditions, ready)})
}

func patchNodeStatus(ctx context.Context, client kubernetes.Interface, name string, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
