/*
 * Peer of the benchmark: broadcasts by a loop of send over all connections, the ceiling: what is asked for at once is one send
 * for each. One thread. broadcast [--host H] [--port P]; ends on SIGTERM by the signal's default action. Linux only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, EVENTS = 512, DESCRIPTORS = 1 << 16, LINE_BYTES = 256, BATCH_BYTES = 1 << 16, PLACES = 251 };

static int listeners[DESCRIPTORS], listener_count, place_of[DESCRIPTORS];
static char batch[BATCH_BYTES];

static void fail(const char *call) {
  fprintf(stderr, "broadcast: %s: %s\n", call, strerror(errno));
  exit(1);
}

static void add(int fd) {
  place_of[fd] = listener_count;
  listeners[listener_count++] = fd;
}

static void take_out(int fd) {
  int place = place_of[fd];
  if (place < 0) return;
  listeners[place] = listeners[--listener_count];
  place_of[listeners[place]] = place;
  place_of[fd] = -1;
}

static void broadcast(unsigned messages, unsigned size, uint32_t first) {
  if (size < sizeof first || (size_t)messages * size > BATCH_BYTES) {
    fprintf(stderr, "broadcast: %u messages of %u bytes are not %d in all\n", messages, size, BATCH_BYTES);
    exit(2);
  }
  for (unsigned index = 0; index < messages; index++) {
    char *message = batch + (size_t)index * size;
    uint32_t number = first + index;
    for (unsigned at = 0; at < size; at++) message[at] = (char)(at % PLACES);
    memcpy(message, &number, sizeof number);
  }
  /* Listeners read all of one before the next is asked for: it always fits into the socket's buffer. */
  for (int index = 0; index < listener_count; index++)
    if (send(listeners[index], batch, (size_t)messages * size, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        (ssize_t)messages * size)
      fail("send");
}

/* Lines of one connection come whole: they are short, and each is sent by itself. */
static void receive(int fd) {
  char text[LINE_BYTES + 1];
  ssize_t length = recv(fd, text, LINE_BYTES, 0);
  take_out(fd);
  if (length <= 0) {
    close(fd);
    return;
  }
  text[length] = 0;
  for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL && rest != NULL;) {
    unsigned messages, size, first;
    if (strcmp(line, "count") == 0) {
      int answer = snprintf(text, sizeof text, "%d\n", listener_count);
      if (send(fd, text, (size_t)answer, MSG_NOSIGNAL) != answer) fail("send");
      return;
    }
    if (sscanf(line, "broadcast %u %u %u", &messages, &size, &first) == 3) broadcast(messages, size, first);
  }
}

int main(int count, char **words) {
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  for (int index = 1; index + 1 < count; index += 2) {
    if (strcmp(words[index], "--host") == 0) inet_pton(AF_INET, words[index + 1], &addr.sin_addr);
    else if (strcmp(words[index], "--port") == 0) addr.sin_port = htons((unsigned short)atoi(words[index + 1]));
    else {
      fprintf(stderr, "broadcast: %s is not an option\n", words[index]);
      return 2;
    }
  }
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) fail("getrlimit");
  limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) fail("setrlimit");
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  if (listener < 0 || poll < 0) fail("socket");
  socklen_t length = sizeof addr;
  if (bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0) fail("bind");
  if (listen(listener, BACKLOG) < 0) fail("listen");
  if (getsockname(listener, (struct sockaddr *)&addr, &length) < 0) fail("getsockname");
  char host[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &addr.sin_addr, host, sizeof host);
  printf("listening on tcp://%s:%d (shards 1, engine send)\n", host, ntohs(addr.sin_port));
  fflush(stdout);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
  if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0) fail("epoll_ctl");
  for (;;) {
    int ready = epoll_wait(poll, events, EVENTS, -1);
    for (int index = 0; index < ready; index++) {
      int fd = events[index].data.fd;
      if (fd != listener) {
        receive(fd);
        continue;
      }
      while ((fd = accept4(listener, NULL, NULL, 0)) >= 0) {
        int on = 1;
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) fail("setsockopt");
        event.data.fd = fd;
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
        add(fd);
      }
      if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) fail("accept4");
    }
  }
}
