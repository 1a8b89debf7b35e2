/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * record.h: the one decision about a session, written so that an engine that dies does not take
 * it along.
 *
 * A session is decided once: committed or aborted. The record is a file in the runtime directory,
 * put in place by a rename that replaces nothing: of two engines (an old one that hangs and its
 * successor) the first one decides, and the other learns what was decided.
 *
 * Threads: the control thread. Blocks for one fsync.
 */
#ifndef SLUICE_ENGINE_PEER_RECORD_H
#define SLUICE_ENGINE_PEER_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include <sluice/error.h>

#define SLUICE_SESSION_ID_BYTES 33 /* 32 hex digits and the final NUL */

enum sluice_decision {
	SLUICE_UNDECIDED = 0,
	SLUICE_COMMITTED, /* source: may say commit. target: may tell its VMM to run */
	SLUICE_ABORTED, /* the session is burnt: it can never commit here */
};

enum sluice_record_side { SLUICE_RECORD_SOURCE, SLUICE_RECORD_TARGET };

const char *sluice_decision_name(enum sluice_decision decision);

/* Make @dir where it is missing, and see that records can be put there: before a session begins,
   not at its commit. */
int sluice_record_prepare(const char *dir, struct sluice_error *err);
/*
 * Write, sync, rename and remove a record that means nothing, a few times: what the commit will do
 * is known to work before a session begins, and how long it takes is known, too.
 */
int sluice_record_rehearse(const char *dir, uint64_t *ret_ns, struct sluice_error *err);
/*
 * Target: note that a session begins, before anything is said to its source; decide() takes the note
 * away. A successor that is asked about a session without note and record knows that no engine here
 * ever said *prepared* to it, so that nobody will tell one to commit, and answers without a record:
 * who asks about sessions that never were leaves no files. The note need not outlive the host: with
 * it goes the engine that it is about.
 */
int sluice_record_begin(const char *dir, const char *session, struct sluice_error *err);
/* The session was refused after all. */
void sluice_record_begin_undo(const char *dir, const char *session);
bool sluice_record_has_begun(const char *dir, const char *session);
/* Decide, unless it is decided: *ret_decision is what holds now. */
int sluice_record_decide(const char *dir, enum sluice_record_side side, const char *session,
	enum sluice_decision decision, enum sluice_decision *ret_decision,
	struct sluice_error *err);
/* What was decided; SLUICE_UNDECIDED when nothing was. */
int sluice_record_read(const char *dir, enum sluice_record_side side, const char *session,
	enum sluice_decision *ret_decision, struct sluice_error *err);

#endif
