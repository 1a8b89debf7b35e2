/* SPDX-License-Identifier: BSD-3-Clause */
/* messages.c: see messages.h. */
#include "engine/peer/messages.h"

#include <errno.h>
#include <stdint.h>

#include "base/schema.h"
#include "peer-link-schema.h"

int sluice_peer_check(const json_t *message, struct sluice_error *err)
{
	const struct sluice_schema *schema = &sluice_schema_peer_link;
	const struct sluice_schema_entry *entry = NULL;
	const char *type = sluice_peer_type(message);
	json_t *data;
	int r;

	if (type != NULL)
		entry = sluice_schema_find(schema->messages, schema->message_count, type);
	if (entry == NULL)
		return sluice_fail_scope(err, SLUICE_SCOPE_SESSION, -EPROTO, "peer link",
			"the peer sent %s%.32s%s; is it another version, or no engine at all?",
			type != NULL ? "a message of unknown type \"" : "something without a type",
			type != NULL ? type : "", type != NULL ? "\"" : "");
	data = json_copy((json_t *)(uintptr_t)message);
	json_object_del(data, "type");
	r = sluice_schema_check(entry->data, data, type, err);
	json_decref(data);
	return r < 0 ? -EPROTO : 0;
}
