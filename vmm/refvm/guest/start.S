/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * start.S: the guest's first instructions, in ring 3 of long mode.
 *
 * On entry rdi holds the vCPU's number and rsp its stack. The number of operations is kept
 * in r15 and in xmm15, so that it travels in two parts of the vCPU's state that the VMM
 * saves by different calls; the workload compares both with the count in memory.
 * hlt is not for ring 3: an idle vCPU writes to a port, which the VMM answers by sleeping.
 */
#define PORT_YIELD 0x10

	.section .text.start, "ax"
	.code64
	.globl _start
_start:
	movq	%rdi, %rbx
	xorl	%r15d, %r15d
	pxor	%xmm15, %xmm15
	xorl	%ebp, %ebp
.Lagain:
	xorl	%edi, %edi		/* bias */
	movq	%rbx, %rsi		/* vcpu */
	movq	%r15, %rdx		/* ops */
	movq	%xmm15, %rcx		/* ops_sse */
	call	refvm_guest_step
	addq	%rax, %r15
	movq	%rax, %xmm0
	paddq	%xmm0, %xmm15
	testl	%edx, %edx
	jz	.Lagain
	movl	%edx, %eax
	outl	%eax, $PORT_YIELD
	jmp	.Lagain

	.section .note.GNU-stack, "", @progbits
