/** Every domain of the product. Adding one is a folder, a .prisma file and a line here. */
import './domains/identity/index.ts';
import './domains/deployments/index.ts';
import './domains/repositories/index.ts';
import './domains/documents/index.ts';
import './domains/instance/index.ts';
