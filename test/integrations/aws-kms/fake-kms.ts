import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Stands in for AWS KMS at its HTTP edge: GenerateDataKey and Decrypt of symmetric keys, with real AES-256-GCM whose
 * authenticated data is the encryption context. It is no KMS: it does not verify signatures, only that there is one, and
 * it knows no policies, grants and aliases.
 */
export interface FakeKms {
  readonly url: string;
  /** Operations that were asked for, in order. */
  readonly asked: string[];
  /** Disables a key, or enables it again. */
  disable(arn: string, disabled?: boolean): void;
  stop(): Promise<void>;
}

interface Ask {
  readonly KeyId: string;
  readonly CiphertextBlob?: string;
  readonly EncryptionContext?: Readonly<Record<string, string>>;
}

class Refused extends Error {}

export async function fakeKms(arns: readonly string[]): Promise<FakeKms> {
  const keys = new Map(arns.map((arn, index) => [arn, { index, key: randomBytes(32), disabled: false }]));
  const asked: string[] = [];
  const keyOf = (arn: string) => {
    const key = keys.get(arn);
    if (!key) throw new Refused('NotFoundException');
    if (key.disabled) throw new Refused('DisabledException');
    return key;
  };
  const contextOf = ({ EncryptionContext = {} }: Ask): Buffer =>
    Buffer.from(JSON.stringify(Object.entries(EncryptionContext).toSorted(([a], [b]) => (a < b ? -1 : 1))));

  const operations: Readonly<Record<string, (ask: Ask) => object>> = {
    GenerateDataKey(ask) {
      const { index, key } = keyOf(ask.KeyId);
      const [plain, iv] = [randomBytes(32), randomBytes(12)];
      const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(contextOf(ask));
      const encrypted = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
      const blob = Buffer.concat([Buffer.from([index]), iv, encrypted]);
      return { KeyId: ask.KeyId, Plaintext: plain.toString('base64'), CiphertextBlob: blob.toString('base64') };
    },
    Decrypt(ask) {
      const { index, key } = keyOf(ask.KeyId);
      const blob = Buffer.from(ask.CiphertextBlob ?? '', 'base64');
      if (blob.length !== 61) throw new Refused('InvalidCiphertextException');
      if (blob[0] !== index) throw new Refused('IncorrectKeyException');
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, blob.subarray(1, 13)).setAAD(contextOf(ask));
        decipher.setAuthTag(blob.subarray(-16));
        const plain = Buffer.concat([decipher.update(blob.subarray(13, -16)), decipher.final()]);
        return { KeyId: ask.KeyId, Plaintext: plain.toString('base64') };
      } catch {
        throw new Refused('InvalidCiphertextException');
      }
    },
  };

  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on('data', (chunk: Buffer) => chunks.push(chunk));
    req.on('end', () => {
      const name = String(req.headers['x-amz-target']).replace('TrentService.', '');
      asked.push(name);
      const answer = (status: number, body: object) =>
        res.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' }).end(JSON.stringify(body));
      try {
        if (!req.headers.authorization?.startsWith('AWS4-HMAC-SHA256 '))
          throw new Refused('MissingAuthenticationToken');
        const operation = operations[name];
        if (!operation) throw new Refused('UnknownOperationException');
        answer(200, operation(JSON.parse(Buffer.concat(chunks).toString()) as Ask));
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        answer(400, { __type: error.message, message: error.message });
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    disable: (arn, disabled = true) => void Object.assign(keys.get(arn) ?? {}, { disabled }),
    stop: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
