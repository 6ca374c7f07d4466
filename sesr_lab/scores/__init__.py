"""PSNR and SSIM as the papers compute them."""
