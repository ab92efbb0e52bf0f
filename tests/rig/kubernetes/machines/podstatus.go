package main

import (
	"crypto/sha256"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reasons are the kubelet's: pkg/kubelet/status/generate.go and pkg/kubelet/kubelet_pods.go.
const (
	reasonCreating     = "ContainerCreating"
	reasonNotReady     = "ContainersNotReady"
	reasonNotInit      = "ContainersNotInitialized"
	reasonCompleted    = "Completed"
	reasonPodCompleted = "PodCompleted"
	reasonGates        = "ReadinessGatesNotReady"
)

func isSidecar(container corev1.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// creatingStatus is a pod that the kubelet has seen and that waits, for its volumes for example.
func creatingStatus(pod *corev1.Pod, hostIP string) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	now := metav1.Now()
	status.Phase = corev1.PodPending
	placed(&status, pod, hostIP, now)
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reasonCreating}}
	status.ContainerStatuses = containers(pod, pod.Spec.Containers, func(corev1.Container) (corev1.ContainerState, bool, *bool) {
		return waiting, false, new(bool)
	})
	status.InitContainerStatuses = containers(pod, pod.Spec.InitContainers, func(corev1.Container) (corev1.ContainerState, bool, *bool) {
		return waiting, false, new(bool)
	})
	podCondition(&status, corev1.PodReadyToStartContainers, false, "", now)
	podCondition(&status, corev1.PodInitialized, len(pod.Spec.InitContainers) == 0, reasonNotInit, now)
	podCondition(&status, corev1.ContainersReady, false, reasonNotReady, now)
	podCondition(&status, corev1.PodReady, false, reasonNotReady, now)
	return status
}

// runningStatus is a pod whose containers all run and are ready; plain init containers have completed.
func runningStatus(pod *corev1.Pod, hostIP, podIP string) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	now := metav1.Now()
	status.Phase = corev1.PodRunning
	status.Reason, status.Message = "", ""
	placed(&status, pod, hostIP, now)
	status.PodIP = podIP
	status.PodIPs = []corev1.PodIP{{IP: podIP}}
	started := true
	running := func(corev1.Container) (corev1.ContainerState, bool, *bool) {
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}, true, &started
	}
	status.ContainerStatuses = containers(pod, pod.Spec.Containers, running)
	status.InitContainerStatuses = containers(pod, pod.Spec.InitContainers, func(c corev1.Container) (corev1.ContainerState, bool, *bool) {
		if isSidecar(c) {
			return running(c)
		}
		return terminated(0, reasonCompleted, now, now), true, new(bool)
	})
	podCondition(&status, corev1.PodReadyToStartContainers, true, "", now)
	podCondition(&status, corev1.PodInitialized, true, "", now)
	podCondition(&status, corev1.ContainersReady, true, "", now)
	podCondition(&status, corev1.PodReady, gatesOpen(pod), reasonGates, now)
	return status
}

// endedStatus is a pod whose containers have ended with the given code.
func endedStatus(pod *corev1.Pod, exit int32) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	now := metav1.Now()
	reason, readiness := reasonCompleted, reasonPodCompleted
	status.Phase = corev1.PodSucceeded
	if exit != 0 {
		status.Phase, reason, readiness = corev1.PodFailed, "Error", "PodFailed"
	}
	end := func(corev1.Container) (corev1.ContainerState, bool, *bool) {
		start := now
		if status.StartTime != nil {
			start = *status.StartTime
		}
		return terminated(exit, reason, start, now), false, new(bool)
	}
	status.ContainerStatuses = containers(pod, pod.Spec.Containers, end)
	podCondition(&status, corev1.PodReadyToStartContainers, false, "", now)
	podCondition(&status, corev1.PodInitialized, true, readiness, now)
	podCondition(&status, corev1.ContainersReady, false, readiness, now)
	podCondition(&status, corev1.PodReady, false, readiness, now)
	return status
}

func placed(status *corev1.PodStatus, pod *corev1.Pod, hostIP string, now metav1.Time) {
	if hostIP != "" {
		status.HostIP = hostIP
		status.HostIPs = []corev1.HostIP{{IP: hostIP}}
	}
	if status.StartTime == nil {
		status.StartTime = &now
	}
	if status.QOSClass == "" {
		status.QOSClass = corev1.PodQOSBurstable
	}
	status.ObservedGeneration = pod.Generation
}

func terminated(exit int32, reason string, start, end metav1.Time) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: exit, Reason: reason, StartedAt: start, FinishedAt: end,
	}}
}

func containers(pod *corev1.Pod, list []corev1.Container, state func(corev1.Container) (corev1.ContainerState, bool, *bool)) []corev1.ContainerStatus {
	statuses := make([]corev1.ContainerStatus, 0, len(list))
	for _, container := range list {
		current, ready, started := state(container)
		status := corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, State: current, Ready: ready, Started: started,
		}
		if current.Waiting == nil {
			sum := sha256.Sum256([]byte(string(pod.UID) + "/" + container.Name))
			status.ContainerID = fmt.Sprintf("containerd://%x", sum)
			image := sha256.Sum256([]byte(container.Image))
			status.ImageID = fmt.Sprintf("sha256:%x", image)
		}
		statuses = append(statuses, status)
	}
	return statuses
}

func gatesOpen(pod *corev1.Pod) bool {
	for _, gate := range pod.Spec.ReadinessGates {
		open := false
		for _, condition := range pod.Status.Conditions {
			open = open || condition.Type == gate.ConditionType && condition.Status == corev1.ConditionTrue
		}
		if !open {
			return false
		}
	}
	return true
}

// podCondition sets a condition; the reason is kept only with a false one, or with a completed pod.
func podCondition(status *corev1.PodStatus, kind corev1.PodConditionType, value bool, reason string, now metav1.Time) {
	condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, LastTransitionTime: now}
	if value {
		condition.Status = corev1.ConditionTrue
		if reason != reasonPodCompleted {
			condition.Reason = ""
		}
	}
	for i, old := range status.Conditions {
		if old.Type != kind {
			continue
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		status.Conditions[i] = condition
		return
	}
	status.Conditions = append(status.Conditions, condition)
}

// grace is how long a pod takes to end: what it asks for, cut to the limit.
func grace(pod *corev1.Pod, limit time.Duration) time.Duration {
	seconds := pod.DeletionGracePeriodSeconds
	if seconds == nil {
		seconds = pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds == nil {
		return limit
	}
	return min(limit, time.Duration(*seconds)*time.Second)
}
