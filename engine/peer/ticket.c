/* SPDX-License-Identifier: BSD-3-Clause */
/* ticket.c: see ticket.h. */
#include "engine/peer/ticket.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/hex.h"
#include "engine/peer/record.h"

#define WHERE "ticket"

/* What a derived ticket is bound to besides the link. No padding: every byte counts. */
struct context {
	char session[SLUICE_SESSION_ID_BYTES - 1];
	uint32_t lane_le, epoch_le;
};

_Static_assert(sizeof(struct context) == 40, "both ends must agree on every byte");

static int derive(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	struct sluice_ticket *ret_ticket, struct sluice_error *err)
{
	struct context context = {.lane_le = htole32(use->lane), .epoch_le = htole32(use->epoch)};
	int r;

	if (keys->derive == NULL)
		return -EOPNOTSUPP;
	memcpy(context.session, use->session, strnlen(use->session, sizeof(context.session)));
	r = keys->derive(keys->ctx, &context, sizeof(context), ret_ticket->secret,
		sizeof(ret_ticket->secret));
	if (r < 0 && r != -EOPNOTSUPP)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, r, WHERE,
			"no ticket can be derived from the peer link: %s", strerror(-r));
	return r;
}

int sluice_ticket_make(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	struct sluice_ticket *ret_ticket, char ret_told[SLUICE_TICKET_TEXT_BYTES],
	struct sluice_error *err)
{
	int r = derive(keys, use, ret_ticket, err);

	ret_told[0] = '\0';
	if (r != -EOPNOTSUPP)
		return r;
	if (getrandom(ret_ticket->secret, sizeof(ret_ticket->secret), 0) !=
		sizeof(ret_ticket->secret))
		return sluice_fail(err, -EIO, WHERE, "no random bytes");
	sluice_hex_write(ret_ticket->secret, sizeof(ret_ticket->secret), ret_told);
	return 0;
}

int sluice_ticket_know(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	const char *told, struct sluice_ticket *ret_ticket, struct sluice_error *err)
{
	int r = derive(keys, use, ret_ticket, err);

	if (r == 0 && told[0] != '\0')
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, WHERE,
			"the peer sent a ticket that both ends derive from the encrypted link");
	if (r != -EOPNOTSUPP)
		return r;
	if (sluice_hex_read(told, strlen(told), ret_ticket->secret, sizeof(ret_ticket->secret)) !=
		SLUICE_TICKET_BYTES)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, WHERE,
			"the peer sent a ticket that is not %d hexadecimal digits",
			2 * SLUICE_TICKET_BYTES);
	return 0;
}
