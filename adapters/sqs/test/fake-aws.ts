import { createHash, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * As much of SQS and SNS as a test of requests needs, with the limits that AWS has and emulators do not: what breaks
 * one is noted in `faults`, and refused.
 */
export class FakeAws {
  readonly faults: string[] = [];
  /** Requests by their name, such as `ReceiveMessage`. */
  readonly requests = new Map<string, number>();
  /** Refuses requests, with this code: what AWS does now and then and no emulator does. */
  refuse: (action: string, name: string) => string | undefined = () => undefined;
  /** The code with which each entry of such a batch fails, by the sender's fault as AWS sees it. */
  failEntries: (action: string) => string | undefined = () => undefined;
  /** Keeps back the answer to a request that has been carried out. */
  hold: (action: string) => Promise<void> | undefined = () => undefined;
  /** Milliseconds that its clock is ahead of ours; AWS bears five minutes. */
  ahead = 0;
  readonly #server: Server;
  readonly #queues = new Map<string, Queue>();
  readonly #topics = new Map<string, Set<string>>();
  /** Whether the request that is being answered was signed at another time. */
  #skewed = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeAws> {
    const server = createServer((request, response) => {
      void read(request).then(async (body) => {
        const target = request.headers['x-amz-target'];
        response.setHeader('date', new Date(Date.now() + fake.ahead).toUTCString());
        fake.#checkTime(String(request.headers['x-amz-date']));
        if (typeof target === 'string') {
          const action = target.slice(target.indexOf('.') + 1);
          const [status, answer] = await fake.#sqs(action, JSON.parse(body));
          await fake.hold(action);
          response.writeHead(status, { 'content-type': 'application/x-amz-json-1.0' });
          response.end(JSON.stringify(answer));
        } else {
          const [status, xml] = fake.#sns(new URLSearchParams(body));
          response.writeHead(status, { 'content-type': 'text/xml' });
          response.end(xml);
        }
      });
    });
    const fake = new FakeAws(server);
    await new Promise<void>((resolve) => server.listen(0, resolve));
    return fake;
  }

  get url(): string {
    return `sqs://eu-west-1?endpoint=http://localhost:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** How many requests with these names there were. */
  count(...names: readonly string[]): number {
    return names.reduce((sum, name) => sum + (this.requests.get(name) ?? 0), 0);
  }

  /** How many messages of a queue have been received at least once. */
  received(name: string): number {
    return this.#queues.get(name)?.received ?? 0;
  }

  /** Deletes a queue, as somebody else would. */
  deleteQueue(name: string): void {
    this.#queues.delete(name);
  }

  deleteTopic(name: string): void {
    this.#topics.delete(`${topicArn}${name}`);
  }

  /** Ends the subscription of a queue, as somebody else would. */
  unsubscribe(topic: string, queue: string): void {
    this.#topics.get(`${topicArn}${topic}`)?.delete(queue);
  }

  isSubscribed(topic: string, queue: string): boolean {
    return this.#topics.get(`${topicArn}${topic}`)?.has(queue) === true;
  }

  hasQueue(name: string): boolean {
    return this.#queues.has(name);
  }

  /** Stores a message, as another program would. */
  put(queue: string, body: string, attributes: Readonly<Record<string, string>> = {}): void {
    const texts = Object.entries(attributes).map(([name, StringValue]) => [name, { DataType: 'String', StringValue }]);
    this.#queues.get(queue)?.add(body, Object.fromEntries(texts));
  }

  /** Messages that a queue holds, hidden ones too. */
  size(name: string): number {
    return this.#queues.get(name)?.size ?? 0;
  }

  #checkTime(signed: string): void {
    const at = Date.parse(signed.replace(/^(....)(..)(..T..)(..)(.*)$/, '$1-$2-$3:$4:$5'));
    this.#skewed = Math.abs(Date.now() + this.ahead - at) > 300_000;
  }

  async #sqs(action: string, input: Input): Promise<[number, unknown]> {
    this.requests.set(action, this.count(action) + 1);
    const name = String(input.QueueUrl ?? input.QueueName ?? '').replace(/^.*\//, '');
    const code = this.#skewed ? 'InvalidSignatureException' : this.refuse(action, name);
    if (code !== undefined) return [400, { __type: `com.amazonaws.sqs#${code}`, message: 'refused' }];
    const QueueUrl = `http://queues.invalid/000000000000/${name}`;
    if (action === 'CreateQueue') {
      this.#queues.set(name, new Queue(input.tags));
      return [200, { QueueUrl }];
    }
    if (action === 'ListQueues') {
      const names = [...this.#queues.keys()].filter((one) => one.startsWith(input.QueueNamePrefix ?? ''));
      return [200, { QueueUrls: names.map((one) => `http://queues.invalid/000000000000/${one}`) }];
    }
    if (action === 'GetQueueAttributes')
      return [200, { Attributes: { ApproximateNumberOfMessages: String(this.size(name)) } }];
    const queue = this.#queues.get(name);
    if (queue === undefined) return [400, { __type: 'com.amazonaws.sqs#QueueDoesNotExist', message: 'no such queue' }];
    if (action === 'ReceiveMessage') return [200, { Messages: await queue.receive(input) }];
    if (action === 'DeleteQueue') this.#queues.delete(name);
    if (action === 'ListQueueTags') return [200, { Tags: queue.tags }];
    if (action === 'TagQueue') Object.assign(queue.tags, input.Tags);
    const entries = input.Entries ?? [];
    if (entries.length > 10) this.faults.push(`${action} has ${entries.length} entries`);
    if (action === 'SendMessageBatch') {
      const sum = entries.reduce(
        (bytes, entry) => bytes + this.#check(entry.MessageBody ?? '', entry.MessageAttributes ?? {}),
        0,
      );
      if (sum > 1_048_576) {
        this.faults.push(`a batch for SQS has ${sum} bytes`);
        return [400, { __type: 'com.amazonaws.sqs#BatchRequestTooLong', message: 'refused' }];
      }
      for (const { DelaySeconds = 0 } of entries)
        if (DelaySeconds > 900) this.faults.push(`a delay of ${DelaySeconds} s`);
      for (const entry of entries)
        queue.add(entry.MessageBody ?? '', entry.MessageAttributes ?? {}, entry.DelaySeconds, entry.MessageGroupId);
    }
    if (action === 'DeleteMessageBatch') for (const { ReceiptHandle } of entries) queue.delete(ReceiptHandle ?? '');
    const gone = new Set<unknown>();
    if (action === 'ChangeMessageVisibilityBatch') {
      for (const { Id, ReceiptHandle, VisibilityTimeout = 0 } of entries)
        if (!queue.hide(ReceiptHandle ?? '', VisibilityTimeout)) gone.add(Id);
    }
    const Failed = [...gone].map((Id) => ({ Id, Code: 'InvalidParameterValue', SenderFault: true }));
    const done = entries.filter(({ Id }) => !gone.has(Id));
    const Successful = done.map(({ Id, MessageBody }) => ({
      Id,
      MessageId: randomUUID(),
      MD5OfMessageBody: md5(MessageBody ?? ''),
    }));
    return [200, { QueueUrl, Successful, Failed }];
  }

  #sns(input: URLSearchParams): [number, string] {
    const action = input.get('Action') ?? '';
    this.requests.set(action, this.count(action) + 1);
    const subscription = input.get('SubscriptionArn') ?? undefined;
    const arn =
      subscription?.slice(0, subscription.lastIndexOf(':')) ??
      input.get('TopicArn') ??
      input.get('ResourceArn') ??
      `${topicArn}${input.get('Name')}`;
    const answer = (result: string): [number, string] => [
      200,
      `<${action}Response><${action}Result>${result}</${action}Result></${action}Response>`,
    ];
    const refused = this.refuse(action, arn.slice(arn.lastIndexOf(':') + 1));
    if (refused !== undefined)
      return [400, `<ErrorResponse><Error><Code>${refused}</Code><Message>refused</Message></Error></ErrorResponse>`];
    if (action === 'ListTopics')
      return answer(`<Topics><member><TopicArn>${topicArn}other</TopicArn></member></Topics>`);
    if (action === 'CreateTopic') this.#topics.set(arn, new Set());
    const topic = this.#topics.get(arn);
    if (topic === undefined)
      return [
        404,
        '<ErrorResponse><Error><Code>NotFound</Code><Message>no such topic</Message></Error></ErrorResponse>',
      ];
    const endpoint = (input.get('Endpoint') ?? '').replace(/^.*:/, '');
    if (action === 'Subscribe') topic.add(endpoint);
    if (action === 'Unsubscribe') topic.delete(subscription?.slice(arn.length + 1) ?? '');
    if (action === 'ListSubscriptionsByTopic') {
      const all = [...topic].map(
        (queue) =>
          `<member><SubscriptionArn>${arn}:${queue}</SubscriptionArn><Endpoint>arn:aws:sqs:eu-west-1:000000000000:${queue}</Endpoint></member>`,
      );
      return answer(`<Subscriptions>${all.join('')}</Subscriptions>`);
    }
    if (action !== 'PublishBatch')
      return answer(`<TopicArn>${arn}</TopicArn><SubscriptionArn>${arn}:${endpoint}</SubscriptionArn>`);
    const entryCode = this.failEntries(action);
    let sum = 0;
    let successful = '';
    let failed = '';
    for (let n = 1; ; n++) {
      const entry = `PublishBatchRequestEntries.member.${n}.`;
      const body = input.get(`${entry}Message`);
      if (body === null) break;
      if (n > 10) this.faults.push('PublishBatch has more than ten entries');
      const attributes: Attributes = {};
      for (let m = 1; input.has(`${entry}MessageAttributes.entry.${m}.Name`); m++) {
        const at = `${entry}MessageAttributes.entry.${m}.`;
        attributes[input.get(`${at}Name`) ?? ''] = {
          DataType: input.get(`${at}Value.DataType`) ?? '',
          StringValue: input.get(`${at}Value.StringValue`) ?? '',
        };
      }
      if (entryCode !== undefined) {
        const Id = input.get(`${entry}Id`);
        failed += `<member><Id>${Id}</Id><Code>${entryCode}</Code><SenderFault>true</SenderFault></member>`;
        continue;
      }
      sum += this.#check(body, attributes);
      for (const queue of topic)
        this.#queues.get(queue)?.add(body, attributes, 0, input.get(`${entry}MessageGroupId`) ?? undefined);
      successful += `<member><Id>${input.get(`${entry}Id`)}</Id><MessageId>${randomUUID()}</MessageId></member>`;
    }
    if (sum > 262_144) this.faults.push(`a batch for SNS has ${sum} bytes`);
    return answer(`<Successful>${successful}</Successful><Failed>${failed}</Failed>`);
  }

  /** @returns bytes */
  #check(body: string, attributes: Attributes): number {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is not allowed
    const illegal = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;
    const names = Object.keys(attributes);
    if (body === '') this.faults.push('an empty body');
    if (illegal.test(body)) this.faults.push('a body that XML cannot carry');
    if (names.length > 10) this.faults.push(`${names.length} attributes`);
    let bytes = Buffer.byteLength(body);
    for (const name of names) {
      const { DataType, StringValue } = attributes[name] as { DataType: string; StringValue: string };
      if (StringValue === '' || illegal.test(StringValue))
        this.faults.push(`an attribute ${name} that is empty or not allowed`);
      bytes += Buffer.byteLength(name + DataType + StringValue);
    }
    return bytes;
  }
}

/** What the names of topics come after. */
const topicArn = 'arn:aws:sns:eu-west-1:000000000000:';

type Attributes = Record<string, { DataType: string; StringValue: string }>;

interface Input {
  readonly QueueUrl?: string;
  readonly QueueName?: string;
  readonly QueueNamePrefix?: string;
  readonly tags?: Readonly<Record<string, string>>;
  readonly Tags?: Readonly<Record<string, string>>;
  readonly MaxNumberOfMessages?: number;
  readonly WaitTimeSeconds?: number;
  readonly VisibilityTimeout?: number;
  readonly Entries?: readonly {
    readonly Id?: string;
    readonly MessageBody?: string;
    readonly MessageAttributes?: Attributes;
    readonly DelaySeconds?: number;
    readonly MessageGroupId?: string;
    readonly ReceiptHandle?: string;
    readonly VisibilityTimeout?: number;
  }[];
}

interface Stored {
  readonly id: string;
  readonly body: string;
  readonly attributes: Attributes;
  readonly sent: number;
  readonly group: string | undefined;
  visibleAt: number;
  handle: string;
  received: number;
}

class Queue {
  readonly tags: Record<string, string>;
  #messages: Stored[] = [];
  #wake: (() => void)[] = [];

  constructor(tags: Readonly<Record<string, string>> = {}) {
    this.tags = { ...tags };
  }

  get size(): number {
    return this.#messages.length;
  }

  get received(): number {
    return this.#messages.filter(({ received }) => received > 0).length;
  }

  add(body: string, attributes: Attributes, delay = 0, group?: string): void {
    const sent = Date.now();
    this.#messages.push({
      id: randomUUID(),
      body,
      attributes,
      sent,
      group,
      visibleAt: sent + delay * 1_000,
      handle: '',
      received: 0,
    });
    for (const wake of this.#wake.splice(0)) wake();
  }

  delete(handle: string): void {
    this.#messages = this.#messages.filter((message) => message.handle !== handle);
  }

  /** @returns whether there is such a message */
  hide(handle: string, seconds: number): boolean {
    const found = this.#messages.find((message) => message.handle === handle);
    if (found !== undefined) found.visibleAt = Date.now() + seconds * 1_000;
    return found !== undefined;
  }

  async receive({ MaxNumberOfMessages = 1, WaitTimeSeconds = 0, VisibilityTimeout = 30 }: Input): Promise<unknown[]> {
    const end = Date.now() + WaitTimeSeconds * 1_000;
    for (;;) {
      const now = Date.now();
      // Of a message group that has one out, SQS gives nothing more.
      const out = this.#messages.filter(({ group, visibleAt }) => group !== undefined && visibleAt > now);
      const blocked = new Set(out.map(({ group }) => group));
      const ready = this.#messages
        .filter(({ group, visibleAt }) => visibleAt <= now && !blocked.has(group))
        .slice(0, MaxNumberOfMessages);
      const left = end - Date.now();
      if (ready.length > 0 || left <= 0) {
        return ready.map((message) => {
          message.visibleAt = Date.now() + VisibilityTimeout * 1_000;
          message.handle = randomUUID();
          message.received++;
          return {
            MessageId: message.id,
            ReceiptHandle: message.handle,
            Body: message.body,
            MD5OfBody: md5(message.body),
            MessageAttributes: message.attributes,
            Attributes: {
              SentTimestamp: String(message.sent),
              ApproximateReceiveCount: String(message.received),
              ...(message.group === undefined ? {} : { MessageGroupId: message.group }),
            },
          };
        });
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 20));
        this.#wake.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }
}

const md5 = (text: string): string => createHash('md5').update(text).digest('hex');

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
