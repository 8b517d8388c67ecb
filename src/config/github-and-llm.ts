import { createPrivateKey } from 'node:crypto';
import { z } from 'zod';
import { optional, Secret, setting, split, webUrl, whole } from './kit.ts';

const rsaKey = z.string().transform((text, context): Secret => {
  const pem = text.replaceAll('\\n', '\n');
  try {
    if (createPrivateKey(pem).asymmetricKeyType === 'rsa') return new Secret(pem);
  } catch {
    // Told below: nothing of the text is in the message.
  }
  context.addIssue('must be a private RSA key in PEM');
  return z.NEVER;
});

/** One secret, or two while they are rotated. */
const webhookSecrets = z.string().transform((text, context): readonly Secret[] => {
  const secrets = split(text);
  if (secrets.length <= 2 && secrets.every((one) => Buffer.byteLength(one) >= 16))
    return secrets.map((one) => new Secret(one));
  context.addIssue('must be one secret, or two, comma-separated, of at least 16 bytes each');
  return z.NEVER;
});

/** What deployments ask of GitHub, and of a language model. */
export const githubAndLlm = {
  GITHUB_APP_ID: optional({
    group: 'Deployments',
    description:
      'Id of a GitHub App, through whose installations repositories are reached. Unset: by tokens of people and repositories only.',
    example: '123456',
    schema: z.string().regex(/^[A-Za-z0-9.]{1,60}$/, 'must be an id, or a client id, of a GitHub App'),
  }),
  GITHUB_APP_PRIVATE_KEY: optional({
    group: 'Deployments',
    description: 'Private key of that App: PEM, with line ends or `\\n` in their place.',
    secret: true,
    example: 'as GitHub gives it',
    schema: rsaKey,
  }),
  SWITCHYARD_LLM_URL: optional({
    group: 'Deployments',
    description:
      'Base URL of an API like that of OpenAI (chat completions) whose language model gives advice on deployments, and extracts tables of documents, of workspaces that allow it. Unset: advice comes from rules only, and nothing leaves the server.',
    example: 'https://api.example.com/v1',
    schema: webUrl,
  }),
  SWITCHYARD_LLM_KEY: optional({
    group: 'Deployments',
    description: 'Key for that API.',
    secret: true,
    example: 'the-key-that-its-operator-gives',
    schema: z
      .string()
      .regex(/^[\x21-\x7E]{1,1000}$/, 'must be printable ASCII without spaces')
      .transform((text) => new Secret(text)),
  }),
  SWITCHYARD_LLM_MODEL: optional({
    group: 'Deployments',
    description: 'Name of the model there.',
    example: 'some-model-1',
    schema: z.string().regex(/^[\x21-\x7E]{1,200}$/, 'must be printable ASCII without spaces, 200 characters at most'),
  }),
  SWITCHYARD_LLM_DAILY: setting({
    group: 'Deployments',
    description:
      'Most deployments of one workspace within 24 hours that the language model is asked about, and most extractions that it does.',
    unit: 'deployments',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  GITHUB_WEBHOOK_SECRETS: optional({
    group: 'Deployments',
    description:
      "Secret of that App's webhook, at PUBLIC_URL/webhooks/github; while it is rotated, the new one and the one before, comma-separated. Unset: that address answers 401.",
    secret: true,
    example: 'output of: openssl rand -hex 32',
    schema: webhookSecrets,
  }),
  SWITCHYARD_WEBHOOK_RETENTION_DAYS: setting({
    group: 'Deployments',
    description:
      'How long the bodies of deliveries of GitHub are kept, so that they can be processed again. They have names and addresses of people.',
    unit: 'days',
    default: '30',
    example: '7',
    schema: whole(1, 3650),
  }),
} as const;
