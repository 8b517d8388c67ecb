import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What the stand-in was asked to execute, and what came of it. */
export interface Invocation {
  readonly id: string;
  readonly script: string;
  status: 'InProgress' | 'Success' | 'Failed' | 'Cancelled';
  output: string;
  complaints: string;
}

/**
 * A stand-in for AWS Systems Manager: four operations of its JSON protocol, for one instance, which is this machine. The
 * scripts are executed for real, by /bin/sh, with nothing of this process' environment. Signatures are not verified.
 * @see https://docs.aws.amazon.com/systems-manager/latest/APIReference/Welcome.html
 */
export interface FakeSsm {
  readonly url: string;
  readonly instanceId: string;
  /** All that was asked for, as the history of an account keeps it. */
  readonly history: readonly Invocation[];
  readonly asked: readonly { readonly operation: string; readonly input: Record<string, unknown> }[];
  /** What becomes of the next calls of an operation: an error's name, once each; `hang`: the command does not begin. */
  readonly faults: { operation: string; error: string; message?: string }[];
  /** What DescribeInstanceInformation tells beside the id; null: it is not known. */
  instance: Record<string, unknown> | null;
  /** In place of what a script writes, from the next command on. */
  replace: ((script: string) => string | null) | null;
  close(): Promise<void>;
}

const maxOutput = 24_000;
const cut = (text: string): string =>
  text.length <= maxOutput ? text : `${text.slice(0, maxOutput - 30)}\n--output truncated--`;

export async function startFakeSsm(instanceId = 'i-0123456789abcdef0'): Promise<FakeSsm> {
  const history: Invocation[] = [];
  const asked: { operation: string; input: Record<string, unknown> }[] = [];
  const faults: FakeSsm['faults'] = [];
  const children = new Map<string, ChildProcess>();

  const execute = (script: string): Invocation => {
    const one: Invocation = { id: randomUUID(), script, status: 'InProgress', output: '', complaints: '' };
    history.push(one);
    if (fake.replace) {
      const said = fake.replace(script);
      if (said !== null) return Object.assign(one, { status: 'Success', output: cut(said) });
    }
    const child = spawn('/bin/sh', ['-s'], { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }, detached: true });
    children.set(one.id, child);
    let [output, complaints] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (complaints += text));
    child.stdin.on('error', () => undefined); // it may end before it has read all
    child.stdin.end(script);
    child.once('close', (code) => {
      children.delete(one.id);
      if (one.status !== 'InProgress') return;
      Object.assign(one, {
        status: code === 0 ? 'Success' : 'Failed',
        output: cut(output),
        complaints: cut(complaints),
      });
    });
    return one;
  };

  const operations: Record<string, (input: Record<string, unknown>) => unknown> = {
    SendCommand(input) {
      const { InstanceIds, DocumentName, Parameters } = input as {
        InstanceIds: string[];
        DocumentName: string;
        Parameters: { commands: string[] };
      };
      if (InstanceIds[0] !== instanceId || DocumentName !== 'AWS-RunShellScript') throw new Error('InvalidInstanceId');
      const script = Parameters.commands.join('\n');
      // The document's limit of all parameters together.
      if (script.length > 97_000) throw new Error('MaxDocumentSizeExceeded');
      return { Command: { CommandId: execute(script).id, Status: 'Pending' } };
    },
    GetCommandInvocation({ CommandId }) {
      const one = history.find(({ id }) => id === CommandId);
      if (!one) throw new Error('InvocationDoesNotExist');
      return {
        CommandId,
        InstanceId: instanceId,
        Status: one.status,
        StatusDetails: one.status,
        StandardOutputContent: one.output,
        StandardErrorContent: one.complaints,
      };
    },
    CancelCommand({ CommandId }) {
      const one = history.find(({ id }) => id === CommandId);
      if (!one) throw new Error('InvalidCommandId');
      if (one.status === 'InProgress') one.status = 'Cancelled';
      const pid = children.get(one.id)?.pid;
      if (pid) process.kill(-pid, 'SIGKILL');
      return {};
    },
    DescribeInstanceInformation() {
      return { InstanceInformationList: fake.instance ? [{ InstanceId: instanceId, ...fake.instance }] : [] };
    },
  };

  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.once('end', () => {
      const operation = String(request.headers['x-amz-target']).replace('AmazonSSM.', '');
      const input = JSON.parse(Buffer.concat(chunks).toString() || '{}') as Record<string, unknown>;
      asked.push({ operation, input });
      const answer = (status: number, body: unknown): void =>
        void response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' }).end(JSON.stringify(body));
      const fault = faults.findIndex((one) => one.operation === operation);
      try {
        const [failing] = fault < 0 ? [] : faults.splice(fault, 1);
        if (failing) throw new Error(failing.error, { cause: failing.message });
        const made = operations[operation];
        if (!made) throw new Error('UnknownOperationException');
        answer(200, made(input));
      } catch (error) {
        const { message: name, cause } = error as Error;
        const message = typeof cause === 'string' ? cause : `${name} of the stand-in`;
        answer(400, { __type: `com.amazonaws.ssm#${name}`, message });
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const fake: FakeSsm = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    instanceId,
    history,
    asked,
    faults,
    instance: { PingStatus: 'Online', PlatformType: 'Linux', IPAddress: '127.0.0.1' },
    replace: null,
    async close() {
      for (const { pid } of children.values()) if (pid) process.kill(-pid, 'SIGKILL');
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
  return fake;
}
