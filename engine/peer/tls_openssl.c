/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tls_openssl.c: the TLS module (tls.h) on OpenSSL 3. A shared object of its own.
 *
 * One context per connection: connections are rare, and so nothing is shared or kept. External
 * pre-shared keys are OpenSSL's "PSK sessions": a session made by hand from the key, which one
 * end offers and the other one finds by its identity (SSL_CTX_set_psk_use_session_callback(3)).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "base/assert.h"
#include "base/text.h"
#include "engine/peer/psk.h"
#include "engine/peer/tls.h"

#define WHERE "peer link"

/* TLS_AES_256_GCM_SHA384, the only one: both ends are Sluice, there is nothing to negotiate. */
static const unsigned char cipher_id[] = {0x13, 0x02};
#define CIPHER_NAME "TLS_AES_256_GCM_SHA384"

struct sluice_tls {
	SSL_CTX *ctx;
	SSL *ssl;
	enum sluice_tls_role role;
	const char *psk_file;
	struct sluice_psk psk; /* the key is wiped when the handshake is over */
	struct sluice_error psk_error; /* ACCEPTS: why no key was found for the identity */
};

/* ---- keys ---- */

static SSL_SESSION *make_session(SSL *ssl, const struct sluice_psk *psk)
{
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, cipher_id);
	SSL_SESSION *session = SSL_SESSION_new();

	if (session != NULL && cipher != NULL &&
		SSL_SESSION_set1_master_key(session, psk->key, psk->key_bytes) &&
		SSL_SESSION_set_cipher(session, cipher) &&
		SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
		return session;
	SSL_SESSION_free(session);
	return NULL;
}

/* The handshake is over, and what protects the link now is derived: neither we nor OpenSSL need
   the key any more. */
static void forget_key(struct sluice_tls *tls)
{
	static const unsigned char zeros[SLUICE_PSK_KEY_BYTES_MAX];
	SSL_SESSION *session = SSL_get0_session(tls->ssl);

	if (session != NULL)
		SSL_SESSION_set1_master_key(session, zeros, tls->psk.key_bytes);
	sluice_psk_wipe(&tls->psk);
}

/* CONNECTS: what to offer. @md: the hash that it must fit, once it is fixed. */
static int offer_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_bytes,
	SSL_SESSION **ret_session)
{
	struct sluice_tls *tls = SSL_get_app_data(ssl);

	if (md != NULL && EVP_MD_get_type(md) != NID_sha384)
		return 0;
	*ret_session = make_session(ssl, &tls->psk);
	*id = (const unsigned char *)tls->psk.identity;
	*id_bytes = strlen(tls->psk.identity);
	return *ret_session != NULL;
}

/* ACCEPTS: the key of an identity. None found is no failure to OpenSSL: it goes on without, and
   then fails for want of a certificate. */
static int find_key(SSL *ssl, const unsigned char *id, size_t id_bytes, SSL_SESSION **ret_session)
{
	struct sluice_tls *tls = SSL_get_app_data(ssl);
	char identity[SLUICE_PSK_IDENTITY_MAX + 1] = "";

	*ret_session = NULL;
	if (id_bytes == 0 || id_bytes > SLUICE_PSK_IDENTITY_MAX ||
		memchr(id, '\0', id_bytes) != NULL) {
		sluice_fail(&tls->psk_error, -ENOKEY, WHERE,
			"the peer presented an identity of %zu bytes that no key file can hold",
			id_bytes);
		return 1;
	}
	memcpy(identity, id, id_bytes);
	if (sluice_psk_find(tls->psk_file, identity, &tls->psk, &tls->psk_error) == 0)
		*ret_session = make_session(ssl, &tls->psk);
	return 1;
}

/* ---- life ---- */

static void destroy(struct sluice_tls *tls)
{
	if (tls == NULL)
		return;
	SSL_free(tls->ssl);
	SSL_CTX_free(tls->ctx);
	sluice_psk_wipe(&tls->psk);
	free(tls);
	ERR_clear_error();
}

static SSL_CTX *make_context(enum sluice_tls_role role)
{
	int groups[] = {NID_X25519, NID_X9_62_prime256v1, NID_secp384r1};
	bool connects = role == SLUICE_TLS_CONNECTS;
	SSL_CTX *ctx = SSL_CTX_new(connects ? TLS_client_method() : TLS_server_method());

	if (ctx == NULL || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
		!SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
		!SSL_CTX_set_ciphersuites(ctx, CIPHER_NAME) ||
		!SSL_CTX_set1_groups(ctx, groups, 3) || !SSL_CTX_set_num_tickets(ctx, 0)) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	/* No resumption: a link that comes back makes a new exchange. And the key exchange is
	   never left out: SSL_OP_ALLOW_NO_DHE_KEX stays off. */
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_clear_options(ctx, SSL_OP_ALLOW_NO_DHE_KEX);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				      SSL_MODE_RELEASE_BUFFERS);
	/* A peer that comes with a certificate instead of the key is not our peer. */
	SSL_CTX_set_verify(ctx, connects ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	if (connects)
		SSL_CTX_set_psk_use_session_callback(ctx, offer_key);
	else
		SSL_CTX_set_psk_find_session_callback(ctx, find_key);
	return ctx;
}

static int create(
	const struct sluice_tls_opts *opts, struct sluice_tls **ret_tls, struct sluice_error *err)
{
	struct sluice_tls *tls = calloc(1, sizeof(*tls));
	int r = 0;

	if (tls == NULL)
		return sluice_fail(err, -ENOMEM, WHERE, "out of memory");
	tls->role = opts->role;
	tls->psk_file = opts->psk_file;
	if (opts->role == SLUICE_TLS_CONNECTS)
		r = sluice_psk_find(opts->psk_file, opts->psk_identity, &tls->psk, err);
	if (r == 0) {
		tls->ctx = make_context(opts->role);
		tls->ssl = tls->ctx != NULL ? SSL_new(tls->ctx) : NULL;
		if (tls->ssl == NULL || !SSL_set_fd(tls->ssl, opts->fd))
			r = sluice_fail(err, -EOPNOTSUPP, WHERE,
				"OpenSSL cannot do TLS 1.3 with " CIPHER_NAME
				" here (%s); look at its configuration file",
				ERR_reason_error_string(ERR_peek_last_error()));
	}
	if (r < 0) {
		destroy(tls);
		return r;
	}
	SSL_set_app_data(tls->ssl, tls);
	if (opts->role == SLUICE_TLS_CONNECTS)
		SSL_set_connect_state(tls->ssl);
	else
		SSL_set_accept_state(tls->ssl);
	*ret_tls = tls;
	return 0;
}

/* ---- errors ---- */

static int other_key(const struct sluice_tls *tls, struct sluice_error *err)
{
	char identity[SLUICE_PSK_IDENTITY_MAX + 1];

	memcpy(identity, tls->psk.identity, sizeof(identity));
	sluice_text_make_utf8(identity);
	return sluice_fail(err, -EKEYREJECTED, WHERE,
		"the two hosts have different keys for identity \"%s\"; its line in %.200s must be "
		"the same as in the peer's psk-file",
		identity, tls->psk_file);
}

static int refused_by_peer(const struct sluice_tls *tls, int alert, struct sluice_error *err)
{
	switch (alert) {
	case SSL_AD_ILLEGAL_PARAMETER: /* what OpenSSL says when the binder does not fit */
	case SSL_AD_DECRYPT_ERROR:
		return other_key(tls, err);
	case SSL_AD_HANDSHAKE_FAILURE:
	case SSL_AD_UNKNOWN_PSK_IDENTITY:
		return sluice_fail(err, -ENOKEY, WHERE,
			"the peer has no key for identity \"%s\"; add the same line to its "
			"psk-file, or choose another one with psk-identity",
			tls->psk.identity);
	default:
		return sluice_fail(err, -EPROTO, WHERE,
			"the peer refused the TLS handshake (alert %d, %s)", alert,
			SSL_alert_desc_string_long(alert));
	}
}

static int handshake_failed(const struct sluice_tls *tls, int why, struct sluice_error *err)
{
	int system = errno;
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);
	bool ended = why == SSL_ERROR_ZERO_RETURN || (why == SSL_ERROR_SYSCALL && system == 0) ||
		     reason == SSL_R_UNEXPECTED_EOF_WHILE_READING;

	if (tls->psk_error.code != 0)
		return sluice_fail(err, tls->psk_error.code, WHERE,
			"the peer's identity is not known here: %s; give both hosts the same line",
			tls->psk_error.text);
	if (ended)
		return sluice_fail(err, -ECONNRESET, WHERE,
			"the peer closed the connection in the TLS handshake; its own report says "
			"why");
	if (code == 0)
		return sluice_fail(err, -(system != 0 ? system : EIO), WHERE,
			"the TLS handshake failed: %s", strerror(system != 0 ? system : EIO));
	/* It answered the ClientHello with something else: that it does not want TLS. */
	if (tls->role == SLUICE_TLS_CONNECTS && reason == SSL_R_WRONG_VERSION_NUMBER)
		return sluice_fail(err, -EPROTO, WHERE,
			"the peer's link is in clear text and this one is encrypted; set psk-file "
			"there to a file with the same key, or security: none here");
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_BINDER_DOES_NOT_VERIFY)
		return other_key(tls, err);
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET)
		return refused_by_peer(tls, reason - SSL_AD_REASON_OFFSET, err);
	if (tls->role == SLUICE_TLS_ACCEPTS && tls->psk.identity[0] == '\0' &&
		(reason == SSL_R_NO_SHARED_CIPHER || reason == SSL_R_UNSUPPORTED_PROTOCOL ||
			reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM))
		return sluice_fail(err, -EPROTO, WHERE,
			"the peer speaks TLS, but not TLS 1.3 with a pre-shared key (%s); is it an "
			"engine of Sluice?",
			ERR_reason_error_string(code));
	return sluice_fail(err, -EPROTO, WHERE,
		"the TLS handshake failed: %s; is the peer an engine of Sluice?",
		ERR_reason_error_string(code));
}

/* ---- what the link calls ---- */

static int handshake(struct sluice_tls *tls, uint32_t *ret_events, struct sluice_error *err)
{
	int r, why;

	ERR_clear_error();
	errno = 0;
	r = SSL_do_handshake(tls->ssl);
	if (r == 1) {
		forget_key(tls);
		/* Without the key there is no session to take up, whatever else went well. */
		if (!SSL_session_reused(tls->ssl) || SSL_version(tls->ssl) != TLS1_3_VERSION)
			return sluice_fail(
				err, -EPROTO, WHERE, "the peer did not show that it has the key");
		return 1;
	}
	why = SSL_get_error(tls->ssl, r);
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
		*ret_events = why == SSL_ERROR_WANT_READ ? EPOLLIN : EPOLLOUT;
		return 0;
	}
	r = handshake_failed(tls, why, err);
	sluice_psk_wipe(&tls->psk);
	ERR_clear_error();
	return r;
}

static ssize_t read_some(struct sluice_tls *tls, void *data, size_t bytes, struct sluice_error *err)
{
	unsigned long code;
	size_t got = 0;
	int r, why;

	ERR_clear_error();
	errno = 0;
	r = SSL_read_ex(tls->ssl, data, bytes, &got);
	if (r == 1)
		return (ssize_t)got;
	why = SSL_get_error(tls->ssl, r);
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	code = ERR_peek_error();
	/* Messages have an end of their own: one that was cut off is never taken for whole. */
	if (why == SSL_ERROR_ZERO_RETURN ||
		ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return 0;
	if (why == SSL_ERROR_SYSCALL)
		return errno == 0 || errno == ECONNRESET ? 0 : -errno;
	return sluice_fail(err, -EBADMSG, WHERE,
		"what arrives on the encrypted peer link does not come from the peer, or was "
		"changed on the way (TLS: %s)",
		ERR_reason_error_string(code));
}

static ssize_t write_some(struct sluice_tls *tls, const void *data, size_t bytes)
{
	size_t sent = 0;
	int r, why;

	ERR_clear_error();
	errno = 0;
	r = SSL_write_ex(tls->ssl, data, bytes, &sent);
	if (r == 1)
		return (ssize_t)sent;
	why = SSL_get_error(tls->ssl, r);
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	return why == SSL_ERROR_SYSCALL && errno != 0 ? -errno : -EPIPE;
}

static void end(struct sluice_tls *tls)
{
	ERR_clear_error();
	SSL_shutdown(tls->ssl);
}

static const char *identity(const struct sluice_tls *tls)
{
	return tls->psk.identity;
}

static int export(struct sluice_tls *tls, const void *context, size_t context_bytes,
	uint8_t *secret, size_t secret_bytes)
{
	static const char label[] = SLUICE_TLS_EXPORT_LABEL;

	return SSL_export_keying_material(tls->ssl, secret, secret_bytes, label, sizeof(label) - 1,
		       context, context_bytes, 1) == 1
		       ? 0
		       : -EIO;
}

extern const struct sluice_tls_module SLUICE_TLS_MODULE_SYMBOL;
__attribute__((visibility("default"))) const struct sluice_tls_module SLUICE_TLS_MODULE_SYMBOL = {
	.abi = SLUICE_TLS_ABI,
	.size = sizeof(struct sluice_tls_module),
	.create = create,
	.destroy = destroy,
	.handshake = handshake,
	.read = read_some,
	.write = write_some,
	.end = end,
	.identity = identity,
	.export = export,
};
