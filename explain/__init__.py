"""Where a network looks, and what its gates do.

    from explain.cam import grad_cam
    cam = grad_cam(net, x)               # cam.maps: (N, h, w)

`cam` has Grad-CAM and Grad-CAM++, `gates` the gates of the activation units, `faithfulness`
the deletion and insertion test of a heat map, `images` the pictures to look at, `figures`
the drawing. Everything works on a network as it is, hybridized or not, of this project or
not, and leaves it as it was.
"""
