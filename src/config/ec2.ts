import { z } from 'zod';
import { dockerSocket, optional, setting, webUrl } from './kit.ts';

/** One instance whose Docker engine is used. */
export const ec2 = {
  SWITCHYARD_EC2_INSTANCE_ID: optional({
    group: 'Deployments',
    description:
      'Instance whose Docker engine this worker runs applications with as well, through AWS Systems Manager: docs/ec2.md. A worker that cannot reach it does not start. Credentials are those that the AWS SDK finds.',
    example: 'i-0123456789abcdef0',
    schema: z.string().regex(/^m?i-[0-9a-f]{8,17}$/, 'must be the id of an instance, such as i-0123456789abcdef0'),
  }),
  SWITCHYARD_EC2_REGION: optional({
    group: 'Deployments',
    description: 'Region of that instance and of the bucket.',
    example: 'eu-central-1',
    schema: z.string().regex(/^[a-z]{2}(?:-[a-z]+)+-\d{1,2}$/, 'must be a region of AWS, such as eu-central-1'),
  }),
  SWITCHYARD_EC2_BUCKET: optional({
    group: 'Deployments',
    description:
      'S3 bucket for what is on its way to the instance and back: sources, variables, output. Objects are removed at once; give it a rule that removes what is older than a day.',
    example: 'switchyard-transfer',
    schema: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'must be the name of a bucket'),
  }),
  SWITCHYARD_EC2_ADDRESS: optional({
    group: 'Deployments',
    description:
      'IPv4 address of that instance that its applications are published on, at SWITCHYARD_INSTANCE_PORTS, and that this host reaches.',
    default: { words: 'the private address that Systems Manager tells', of: () => undefined },
    example: '10.0.1.20',
    schema: z.ipv4({ error: 'must be an IPv4 address' }),
  }),
  SWITCHYARD_EC2_DOCKER_HOST: setting({
    group: 'Deployments',
    description: 'Address of the Docker engine on that instance, a socket there.',
    default: 'unix:///var/run/docker.sock',
    example: 'unix:///run/user/1000/docker.sock',
    schema: dockerSocket,
  }),
  SWITCHYARD_EC2_SSM_ENDPOINT: optional({
    group: 'Deployments',
    description: 'Where Systems Manager is reached, in place of the region’s own address, for instance a VPC endpoint.',
    example: 'https://vpce-0123.ssm.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),
  SWITCHYARD_EC2_S3_ENDPOINT: optional({
    group: 'Deployments',
    description: 'Where S3 is reached, the same way; the instance must reach it, too.',
    example: 'https://bucket.vpce-0123.s3.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),
} as const;
