import { z } from 'zod';
import { flag, oneOf, optional, secretText, setting, webUrl, whole } from './kit.ts';

export const files = {
  STORAGE_SECRET: optional({
    group: 'Files',
    description:
      'Key that signs upload and download URLs, at least 32 bytes, the same in every process. Required in production; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(32),
  }),
  SWITCHYARD_MAX_UPLOAD_BYTES: setting({
    group: 'Files',
    description: 'Largest file that can be uploaded.',
    unit: 'bytes',
    default: '1073741824',
    example: '104857600',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_OPEN_UPLOADS: setting({
    group: 'Files',
    description: 'Uploads that a workspace may have announced without having sent them. They end after a day.',
    default: '1000',
    example: '100',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_PENDING_BYTES: setting({
    group: 'Files',
    description: 'Bytes that they may have in all.',
    unit: 'bytes',
    default: '107374182400',
    example: '10737418240',
    schema: whole(1),
  }),
  SWITCHYARD_BLOBS: setting({
    group: 'Files',
    description: 'Where files are: disk, which is the state folder of this host; or s3, a bucket for all hosts.',
    default: 'disk',
    example: 's3',
    schema: oneOf(['disk', 's3']),
  }),
  SWITCHYARD_S3_BUCKET: optional({
    group: 'Files',
    description: 'Bucket for files. It must be there.',
    example: 'switchyard-files',
    schema: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$/, 'must be the name of a bucket'),
  }),
  SWITCHYARD_S3_PREFIX: optional({
    group: 'Files',
    description:
      'Before the names of all objects, where the bucket is for others, too. Of one server, or of those with one database, only.',
    example: 'switchyard/production',
    schema: z.string().regex(/^[A-Za-z0-9._/-]{1,200}$/, 'must be letters, digits and . _ - /'),
  }),
  SWITCHYARD_S3_REGION: setting({
    group: 'Files',
    description: 'Region of the bucket; for servers that have none, any.',
    default: 'us-east-1',
    example: 'eu-central-1',
    schema: z.string().regex(/^[a-z0-9-]{1,40}$/, 'must be the name of a region'),
  }),
  SWITCHYARD_S3_ENDPOINT: optional({
    group: 'Files',
    description: 'Address of an S3 server that is not AWS.',
    example: 'https://s3.example.com',
    schema: webUrl,
  }),
  SWITCHYARD_S3_PATH_STYLE: setting({
    group: 'Files',
    description:
      'Whether the bucket is named in the path and not in the host name, as many servers besides AWS want it.',
    default: 'false',
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_S3_ACCESS_KEY_ID: optional({
    group: 'Files',
    description:
      'Who asks S3. Without it: as the AWS SDK finds it (environment, files, web identity, container, instance).',
    example: 'AKIAIOSFODNN7EXAMPLE',
    schema: z.string().min(1),
  }),
  SWITCHYARD_S3_SECRET_ACCESS_KEY: optional({
    group: 'Files',
    description: 'The secret of SWITCHYARD_S3_ACCESS_KEY_ID.',
    secret: true,
    example: 'as the server of S3 gave it',
    schema: secretText(1),
  }),
  SWITCHYARD_S3_DOWNLOADS: setting({
    group: 'Files',
    description:
      'How clients get files that are in S3: redirect sends them to the bucket, for a minute; through has this server pass the bytes on, for a bucket that clients cannot reach.',
    default: 'redirect',
    example: 'through',
    schema: oneOf(['redirect', 'through']),
  }),
} as const;
