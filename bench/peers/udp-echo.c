/*
 * Peer of the benchmark: echo of datagrams by recvmmsg and sendmmsg, the ceiling. One thread, one socket, 64 datagrams a call.
 * udp-echo [--host H] [--port P] [--receive-buffer BYTES]; ends on SIGTERM by the signal's default action. Linux only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, SLOT_BYTES = 65536 };

static char bytes[BATCH][SLOT_BYTES];
static struct sockaddr_in peers[BATCH];
static struct iovec vectors[BATCH];
static struct mmsghdr headers[BATCH];

static void fail(const char *call) {
  fprintf(stderr, "udp-echo: %s: %s\n", call, strerror(errno));
  exit(1);
}

static int bind_socket(int count, char **words) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int buffer = 1 << 20;
  for (int index = 1; index + 1 < count; index += 2) {
    const char *name = words[index], *value = words[index + 1];
    if (strcmp(name, "--host") == 0) inet_pton(AF_INET, value, &addr.sin_addr);
    else if (strcmp(name, "--port") == 0) addr.sin_port = htons((unsigned short)atoi(value));
    else if (strcmp(name, "--receive-buffer") == 0) buffer = atoi(value);
    else {
      fprintf(stderr, "udp-echo: %s is not an option\n", name);
      exit(2);
    }
  }
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) fail("socket");
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) < 0) fail("setsockopt");
  if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0) fail("bind");
  socklen_t length = sizeof addr;
  if (getsockname(fd, (struct sockaddr *)&addr, &length) < 0) fail("getsockname");
  char host[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &addr.sin_addr, host, sizeof host);
  printf("listening on udp://%s:%d (shards 1, engine recvmmsg)\n", host, ntohs(addr.sin_port));
  fflush(stdout);
  return fd;
}

int main(int count, char **words) {
  int fd = bind_socket(count, words);
  for (int index = 0; index < BATCH; index++) {
    vectors[index].iov_base = bytes[index];
    headers[index].msg_hdr.msg_iov = &vectors[index];
    headers[index].msg_hdr.msg_iovlen = 1;
    headers[index].msg_hdr.msg_name = &peers[index];
  }
  for (;;) {
    for (int index = 0; index < BATCH; index++) {
      vectors[index].iov_len = SLOT_BYTES;
      headers[index].msg_hdr.msg_namelen = sizeof peers[index];
    }
    /* Waits for the first one, and takes what else is there. */
    int received = recvmmsg(fd, headers, BATCH, MSG_WAITFORONE, NULL);
    if (received < 0) {
      if (errno == EINTR || errno == ECONNREFUSED) continue;
      fail("recvmmsg");
    }
    for (int index = 0; index < received; index++) vectors[index].iov_len = headers[index].msg_len;
    for (int sent = 0; sent < received;) {
      int more = sendmmsg(fd, headers + sent, (unsigned)(received - sent), 0);
      /* One that cannot be sent is lost, as datagrams may be. */
      sent += more > 0 ? more : 1;
    }
  }
}
