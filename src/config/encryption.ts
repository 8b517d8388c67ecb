import { z } from 'zod';
import { parseKeys, parseKmsKeys } from '../kernel/sealing/keys.ts';
import { folder, optional, Secret, webUrl } from './kit.ts';

const encryptionKeys = z.string().transform((text, context) => {
  const keys = parseKeys(text);
  if (typeof keys !== 'string') return new Secret(text);
  context.addIssue(keys);
  return z.NEVER;
});

const kmsKeys = z.string().transform((text, context) => {
  const keys = parseKmsKeys(text);
  if (typeof keys !== 'string') return keys;
  context.addIssue(keys);
  return z.NEVER;
});

export const encryption = {
  SWITCHYARD_ENCRYPTION_KEYS: optional({
    group: 'Encryption',
    description:
      'Keys that secrets in the database are encrypted with, the current one first: an id, a colon, 32 bytes in base64; comma-separated; the same in every process. Production needs this or SWITCHYARD_ENCRYPTION_KEYS_FILE; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: echo k1:$(openssl rand -base64 32)',
    schema: encryptionKeys,
  }),
  SWITCHYARD_ENCRYPTION_KEYS_FILE: optional({
    group: 'Encryption',
    description:
      'File that holds what SWITCHYARD_ENCRYPTION_KEYS would, as secrets managers mount it; a key may have a line of its own. Read at the start.',
    example: '/run/secrets/switchyard-encryption-keys',
    schema: folder,
  }),
  SWITCHYARD_ENCRYPTION_KMS_KEYS: optional({
    group: 'Encryption',
    description:
      'Keys in AWS KMS, the current one first: an id, =, the ARN of a symmetric key; comma-separated; the same in every process. Needs kms:GenerateDataKey and kms:Decrypt, and credentials where the AWS SDK looks for them. New values are sealed by the first one; keys of SWITCHYARD_ENCRYPTION_KEYS then only open older ones.',
    example: 'kms1=arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab',
    schema: kmsKeys,
  }),
  SWITCHYARD_KMS_ENDPOINT: optional({
    group: 'Encryption',
    description: 'Address of AWS KMS, for instance a VPC endpoint. Unset: that of the region of the key.',
    example: 'https://vpce-0123-abcd.kms.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),
} as const;
