/** Settings of ElasticMQ, which any image of it takes as properties of Java. */
const properties = {
  'rest-sqs.sqs-limits': 'strict',
  'rest-sqs.bind-hostname': '0.0.0.0',
  'rest-stats.enabled': 'false',
  // Queue URLs with the name by which it was asked: it knows no better one.
  'node-address.host': '*',
  // In the container, which a restart keeps; what is confirmed is on the disk, which H2 puts off by half a second.
  'messages-storage.enabled': 'true',
  'messages-storage.uri': 'jdbc:h2:/tmp/elasticmq;WRITE_DELAY=0',
  'queues-storage.enabled': 'true',
  'queues-storage.path': '/tmp/elasticmq-queues.conf',
};

export const elasticmqEnvironment = {
  // A hundred messages of 1 MB stand in its heap, and polls' answers of ten of them; with 256 MB it has died of that.
  JAVA_OPTS: ['-Xmx1g', ...Object.entries(properties).map(([name, value]) => `-D${name}=${value}`)].join(' '),
} as const;
